// @ts-check
/*
 * The photograph explorer. Python wrote its markup, which shows a first state without any script, and a few
 * constants in JSON; from the first click on the network in the page computes, and this makes the markup show it.
 */

/** @typedef {{name: string, title: string, alt: string, credit: string, python: string, wnid: string | null,
 *             square: string | Raster}} Photograph `square` is what the network sees, as an address or as pixels */
/** @typedef {{network: string, begin: boolean, layers: {name: string, path: string}[], rules: Record<string, string>, words: Record<string, string>,
 *             snippet: string, colours: string, style: {grey: number, crispBelow: number, frame: string},
 *             photographs: Photograph[], start: {photograph: string, path: string, feature: number, unit: [number, number]}}} State */
/** @typedef {{dims: number[], data: Float32Array}} Maps (1, C, h, w) */
/** @typedef {{photograph: Photograph, view: string, square: Raster, input: Float32Array, maps: Record<string, Maps>}} Seen */
/** @typedef {{path: string, feature: number, unit: [number, number]}} Choice */

const SIDE = 384; // pixels a side of a reader's photograph as it is shown

/** Fill `{name}` in a template of Python's. @param {string} template @param {Record<string, unknown>} values */
const fill = (template, values) => template.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));

/** Three digits, as Python's `.3g`. @param {number} value */
const digits = (value) => String(Number(value.toPrecision(3)));

/** @param {number} value @param {number} low @param {number} high */
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** @param {unknown} problem */
const inWords = (problem) => (problem instanceof Error ? problem.message : String(problem));

/** @template {Element} T @param {Element} root @param {string} selector @param {new () => T} kind @returns {T} */
function find(root, selector, kind) {
  const element = root.querySelector(selector);
  if (!(element instanceof kind)) throw new Error(`the explorer's markup has no ${selector}`);
  return element;
}

/** @param {string} text */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages from disk may not write to the clipboard: select a hidden text and copy that.
    const area = document.createElement("textarea");
    area.value = text;
    area.style.cssText = "position:fixed;inset-block-start:0;opacity:0";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw new Error("the browser refused to copy");
  }
}

class Explorer {
  static #count = 0;
  #lane = `explorer ${++Explorer.#count}`;
  /** @type {Network | undefined} */
  #network;
  /** @type {Seen | undefined} */
  #seen;
  /** @type {Map<string, Float32Array>} */
  #projections = new Map(); // of the shown choice, by rule
  #turn = 0; // of photographs: a later one overtakes an earlier one

  /** @param {HTMLElement} root */
  constructor(root) {
    root.dataset.on = "";
    this.root = root;
    /** @type {State} */
    this.state = JSON.parse(find(root, "script.zf-state", HTMLScriptElement).text);
    this.colours = Uint8Array.from(atob(this.state.colours), (letter) => letter.charCodeAt(0));
    const { path, feature, unit } = this.state.start;
    /** @type {Choice} */
    this.choice = { path, feature, unit };
    this.photographs = new Map(this.state.photographs.map((photograph) => [photograph.name, photograph]));
    this.shown = this.state.start.photograph;
    this.#wire();
    this.#announce();
    if (this.state.begin) void this.#look(this.shown, true);
  }

  /** @template {Element} T @param {string} selector @param {new () => T} kind */
  #find(selector, kind) {
    return find(this.root, selector, kind);
  }

  /** @param {string} words @param {boolean} [problem] */
  #tell(words, problem = false) {
    const status = this.#find(".zf-status", HTMLElement);
    status.textContent = words || this.state.words.hint;
    status.classList.toggle("zf-problem", problem);
  }

  // -------------------------------------------------------------------------- bringing the network
  /** Say how much the first click loads. */
  #announce() {
    const lacks = missing();
    const size = () => `${Math.max(1, Math.round(bytesToCome([RUNTIME, this.state.network]) / 1e6))} MB`;
    const present = this.state.network in store().assets;
    const words = lacks || (present ? fill(this.state.words.begin, { size: size() }) : this.state.words.absent);
    this.#find(".zf-size", HTMLElement).textContent = words;
    this.#find('[data-do="load"]', HTMLElement).hidden = Boolean(lacks) || !present;
    if (lacks || !present) return;
    for (const control of this.root.querySelectorAll("button, input")) control.removeAttribute("disabled");
    document.addEventListener("zfcore:network", (event) => {
      if (event instanceof CustomEvent && event.detail === this.state.network) this.#find(".zf-begin", HTMLElement).hidden = true;
    });
  }

  /** The network; brought here by the first wish. @returns {Promise<Network>} */
  async #live() {
    if (this.#network) return this.#network;
    const bar = this.#find("progress", HTMLProgressElement);
    this.#find('[data-do="load"]', HTMLElement).hidden = true;
    bar.hidden = false;
    try {
      this.#network = await Network.load(this.state.network, (done, of) => {
        bar.value = of ? done / of : 1;
        this.#tell(done < of ? this.state.words.loading : this.state.words.starting);
      });
      this.#tell("");
      document.dispatchEvent(new CustomEvent("zfcore:network", { detail: this.state.network }));
    } finally {
      bar.hidden = true;
      this.#find('[data-do="load"]', HTMLElement).hidden = false;
    }
    return this.#network;
  }

  // -------------------------------------------------------------------------- looking at a photograph
  /** Show a photograph to the network, then its strongest feature, or the choice as it is.
   *  @param {string} name @param {boolean} [keep] */
  async #look(name, keep = false) {
    const turn = ++this.#turn;
    try {
      const network = await this.#live();
      const photograph = this.photographs.get(name);
      if (!photograph || turn !== this.#turn) return;
      if (typeof photograph.square === "string") {
        const image = new Image();
        image.src = photograph.square;
        await image.decode();
        photograph.square = rasterOf(image);
      }
      const input = toInput(photograph.square.pixels, network.mean, network.card);
      const paths = this.state.layers.map(({ path }) => path);
      const judged = network.manifest.layers.some((layer) => layer.name === "logits");
      const outputs = judged ? [...paths, "logits"] : paths;
      this.#busy(true);
      const values = await network.forward({ pictures: input, outputs }, { lane: `${this.#lane} forward` });
      if (!values || turn !== this.#turn) return;
      this.shown = name;
      const thumb = this.#thumb(name);
      this.#seen = { photograph, view: find(thumb, "img", HTMLImageElement).src, square: photograph.square, input, maps: values };
      for (const button of this.root.querySelectorAll("[data-photograph]")) button.setAttribute("aria-pressed", `${button === thumb}`);
      this.#drawPhotograph(judged ? values.logits.data : undefined);
      this.#drawLayers();
      if (!keep) this.choice = { path: this.choice.path, feature: this.#strongest(this.choice.path)[0][0], unit: [0, 0] };
      this.#choose(keep ? {} : { feature: this.choice.feature });
    } catch (problem) {
      this.#busy(false);
      this.#tell(inWords(problem), true);
    }
  }

  /** @param {string} name */
  #thumb(name) {
    const thumbs = Array.from(this.root.querySelectorAll("[data-photograph]"));
    const found = thumbs.find((thumb) => thumb instanceof HTMLElement && thumb.dataset.photograph === name);
    if (!(found instanceof HTMLElement)) throw new Error(`no photograph ${name}`);
    return found;
  }

  /** One map of the shown photograph. @param {string} path @param {number} feature */
  #map(path, feature) {
    if (!this.#seen) throw new Error("nothing was looked at yet");
    const { dims: [, , height, width], data } = this.#seen.maps[path];
    return { height, width, map: data.subarray(feature * height * width, (feature + 1) * height * width) };
  }

  /** The features of a layer by their strongest units: [feature, value], the lower number first among equals. @param {string} path */
  #strongest(path) {
    if (!this.#seen) throw new Error("nothing was looked at yet");
    const features = this.#seen.maps[path].dims[1];
    const peaks = Array.from({ length: features }, (_, n) => /** @type {[number, number]} */ ([n, this.#map(path, n).map.reduce((a, b) => Math.max(a, b))]));
    return peaks.sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  }

  /** @param {string} path @param {number} feature @returns {[number, number]} */
  #strongestUnit(path, feature) {
    const { width, map } = this.#map(path, feature);
    const best = map.indexOf(map.reduce((a, b) => Math.max(a, b)));
    return [Math.floor(best / width), best % width];
  }

  /** The receptive field of a unit, clipped to the picture. @param {Choice} choice @returns {Field} */
  #field({ path, unit }) {
    const manifest = /** @type {Network} */ (this.#network).manifest;
    const geometry = manifest.layers.find((layer) => layer.name === path)?.geometry;
    if (!geometry) throw new Error(`${path} has no receptive field`);
    const first = unit.map((u, axis) => geometry.offset[axis] + u * geometry.stride[axis]);
    const edge = (/** @type {number} */ at) => clamp(at, 0, manifest.input_size);
    return {
      top: edge(first[0]), left: edge(first[1]),
      bottom: edge(first[0] + geometry.receptive_field[0]), right: edge(first[1] + geometry.receptive_field[1]),
    };
  }

  // -------------------------------------------------------------------------- choosing
  /** Change the choice. Another layer begins at its strongest feature, another feature at its strongest unit.
   *  @param {{path?: string, feature?: number, unit?: [number, number]}} change */
  #choose(change) {
    if (!this.#seen) return void this.#look(this.shown, true).then(() => this.#seen && this.#choose(change));
    const path = change.path ?? this.choice.path;
    const features = this.#seen.maps[path].dims[1];
    const feature = change.feature ?? (change.path ? this.#strongest(path)[0][0] : this.choice.feature);
    const chosen = clamp(feature, 0, features - 1);
    const anew = change.path !== undefined || change.feature !== undefined;
    const { height, width } = this.#map(path, chosen);
    const [y, x] = change.unit ?? (anew ? this.#strongestUnit(path, chosen) : this.choice.unit);
    this.choice = { path, feature: chosen, unit: [clamp(y, 0, height - 1), clamp(x, 0, width - 1)] };
    this.#drawChoice();
    void this.#project();
  }

  async #project() {
    const { choice } = this;
    const network = await this.#live();
    if (!this.#seen) return;
    this.#busy(true);
    try {
      const { input: picture } = this.#seen;
      const found = await Promise.all(Object.keys(this.state.rules).map((rule) => network.project(
        { layer: choice.path, picture, channel: choice.feature, position: choice.unit, rule: network.manifest.rules.indexOf(rule) },
        { lane: `${this.#lane} ${rule}` },
      )));
      if (choice !== this.choice) return; // a later choice has overtaken this one
      Object.keys(this.state.rules).forEach((rule, n) => {
        const projection = found[n];
        if (projection) this.#projections.set(rule, projection);
      });
      this.#drawProjections();
      this.#busy(false);
    } catch (problem) {
      this.#busy(false);
      this.#tell(inWords(problem), true);
    }
  }

  /** @param {boolean} busy */
  #busy(busy) {
    this.root.setAttribute("aria-busy", `${busy}`);
  }

  // -------------------------------------------------------------------------- showing
  /** @param {Element} panel @param {Raster} raster @param {string} words */
  #paint(panel, raster, words) {
    const image = find(panel, "img", HTMLImageElement);
    image.src = canvasFrom(raster).toDataURL();
    image.alt = words;
    image.classList.toggle("zf-crisp", Math.max(raster.width, raster.height) < this.state.style.crispBelow);
  }

  /** @param {string} name */
  #panel(name) {
    return this.#find(`[data-panel="${name}"]`, HTMLElement);
  }

  /** Put the frame of a panel around a part of it. @param {string} name @param {number} side @param {Field} field @param {boolean} visible */
  #mark(name, side, { left, top, right, bottom }, visible) {
    const overlay = find(this.#panel(name), "svg", SVGElement);
    overlay.setAttribute("viewBox", `0 0 ${side} ${side}`);
    overlay.toggleAttribute("hidden", !visible);
    for (const rect of overlay.querySelectorAll("rect")) {
      for (const [key, value] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top })) rect.setAttribute(key, `${value}`);
    }
  }

  /** @param {Float32Array | undefined} logits */
  #drawPhotograph(logits) {
    const { photograph, view } = /** @type {Seen} */ (this.#seen);
    const image = find(this.#panel("photograph"), "img", HTMLImageElement);
    [image.src, image.alt] = [view, photograph.alt];
    find(this.#panel("photograph"), "figcaption span", HTMLElement).textContent = photograph.title;
    this.#find(".zf-credit", HTMLElement).textContent = photograph.credit;
    if (logits) this.#drawGuesses(logits, photograph.wnid);
  }

  /** @param {Float32Array} logits @param {string | null} wnid */
  #drawGuesses(logits, wnid) {
    const { labels, classes } = /** @type {Network} */ (this.#network).card;
    const top = logits.reduce((a, b) => Math.max(a, b));
    const odds = Array.from(logits, (value) => Math.exp(value - top));
    const sum = odds.reduce((a, b) => a + b, 0);
    const best = Array.from(odds.keys()).sort((a, b) => odds[b] - odds[a]).slice(0, 5);
    const line = (/** @type {number} */ n) => {
      const [item, words, share, bar] = ["li", "span", "b", "i"].map((tag) => document.createElement(tag));
      const own = Boolean(wnid && classes?.[n] === wnid);
      item.classList.toggle("zf-own", own);
      words.textContent = (labels?.[n] ?? `class ${n}`) + (own ? ` ${this.state.words.right}` : "");
      const p = odds[n] / sum;
      share.textContent = p >= 0.005 ? `${Math.round(100 * p)} %` : "< 1 %";
      bar.style.inlineSize = `${(100 * p).toFixed(1)}%`;
      item.append(words, " ", share, bar);
      return item;
    };
    this.#find(".zf-guesses ol", HTMLElement).replaceChildren(...best.map(line));
  }

  /** The strongest maps of every layer, as small pictures. */
  #drawLayers() {
    for (const { name, path } of this.state.layers) {
      const strongest = this.#strongest(path);
      this.#cells(path).forEach((cell, n) => {
        const [feature, value] = strongest[n];
        const { map, width } = this.#map(path, feature);
        cell.dataset.feature = `${feature}`;
        this.#paint(cell, colourMap(map, width, this.colours), fill(this.state.words.cell, { layer: name, feature, value: digits(value) }));
      });
    }
  }

  /** @param {string} path @returns {HTMLElement[]} */
  #cells(path) {
    return Array.from(this.root.querySelectorAll(".zf-cell")).flatMap((cell) => (cell instanceof HTMLElement && cell.dataset.path === path ? [cell] : []));
  }

  /** All of a choice that needs no projection. */
  #drawChoice() {
    const { choice: { path, feature, unit: [y, x] }, state } = this;
    const { square, photograph } = /** @type {Seen} */ (this.#seen);
    const { height, width, map } = this.#map(path, feature);
    const field = this.#field(this.choice);
    const layer = state.layers.find((known) => known.path === path)?.name ?? path;
    const value = map[y * width + x];
    for (const { path: other } of state.layers) {
      const cells = this.#cells(other);
      const chosen = cells.find((cell) => other === path && cell.dataset.feature === `${feature}`);
      cells.forEach((cell) => cell.setAttribute("aria-checked", `${cell === chosen}`));
    }
    this.#rove();
    const words = fill(state.words.map, { layer, feature });
    this.#paint(this.#panel("map"), colourMap(map, width, this.colours), words);
    find(this.#panel("map"), "figcaption span", HTMLElement).textContent = words;
    find(this.#panel("map"), "figcaption small", HTMLElement).textContent = path === layer ? "" : path;
    const shift = [(Math.max(height, width) - height) / 2, (Math.max(height, width) - width) / 2];
    this.#mark("map", Math.max(height, width), { top: y + shift[0], left: x + shift[1], bottom: y + shift[0] + 1, right: x + shift[1] + 1 }, true);
    this.#mark("photograph", square.width, field, true);
    this.#paint(this.#panel("patch"), cut(square, field), state.words.patch);
    for (const [name, number, most] of /** @type {[string, number, number][]} */ ([
      ["feature", feature, /** @type {Seen} */ (this.#seen).maps[path].dims[1] - 1], ["row", y, height - 1], ["column", x, width - 1],
    ])) {
      const input = this.#find(`[data-choice="${name}"]`, HTMLInputElement);
      input.max = `${most}`;
      if (document.activeElement !== input || input.value !== "") input.value = `${number}`;
    }
    this.#find(".zf-says", HTMLElement).textContent = fill(value > 0 ? state.words.says : state.words.silent, {
      title: photograph.title, layer, feature, value: digits(value), row: y, column: x, rows: height, columns: width,
      height: field.bottom - field.top, width: field.right - field.left, side: square.width,
    });
    this.#tell("");
  }

  #drawProjections() {
    const { square } = /** @type {Seen} */ (this.#seen);
    for (const [rule, words] of Object.entries(this.state.rules)) {
      const projection = this.#projections.get(rule);
      if (projection) this.#paint(this.#panel(rule), cut(stretch(projection, square.width), this.#field(this.choice)), fill(this.state.words.projection, { rule: words }));
    }
  }

  /** One tab stop for all small maps: the chosen one, else the first. */
  #rove() {
    const cells = this.state.layers.flatMap(({ path }) => this.#cells(path));
    const stop = cells.find((cell) => cell.getAttribute("aria-checked") === "true") ?? cells[0];
    cells.forEach((cell) => (cell.tabIndex = cell === stop ? 0 : -1));
  }

  // -------------------------------------------------------------------------- the reader's hands
  #wire() {
    const { root } = this;
    const act = {
      load: () => this.#look(this.shown, true),
      strongest: () => this.#seen && this.#choose({ feature: this.choice.feature }),
      picture: () => this.#save(),
      python: () => this.#copy(),
      camera: () => this.#camera(),
    };
    root.addEventListener("click", (event) => {
      const target = event.target instanceof Element ? event.target.closest("button") : null;
      if (!target || !root.contains(target)) return;
      const { photograph, path, feature, do: task } = target.dataset;
      if (photograph !== undefined) void this.#look(photograph);
      else if (path !== undefined) this.#choose({ path, feature: Number(feature) });
      else if (task === "unit") this.#pick(target, event);
      else if (task && task in act) Promise.resolve(act[/** @type {keyof typeof act} */ (task)]()).catch((problem) => this.#tell(inWords(problem), true));
    });
    root.addEventListener("input", ({ target }) => {
      if (!(target instanceof HTMLInputElement) || target.type === "file" || target.value === "" || !target.dataset.choice) return;
      const number = Math.round(Number(target.value));
      const { unit: [y, x] } = this.choice;
      if (target.dataset.choice === "feature") this.#choose({ feature: number });
      else this.#choose({ unit: target.dataset.choice === "row" ? [number, x] : [y, number] });
    });
    root.addEventListener("keydown", (event) => this.#arrow(event));
    this.#find('input[type="file"]', HTMLInputElement).addEventListener("change", ({ target }) => {
      if (target instanceof HTMLInputElement && target.files?.[0]) void this.#take(target.files[0]);
      if (target instanceof HTMLInputElement) target.value = ""; // so that the same file can be chosen again
    });
    root.addEventListener("dragover", (event) => {
      event.preventDefault();
      root.classList.add("zf-over");
    });
    root.addEventListener("dragleave", () => root.classList.remove("zf-over"));
    root.addEventListener("drop", (event) => {
      event.preventDefault();
      root.classList.remove("zf-over");
      const file = event.dataTransfer?.files[0];
      if (file) void this.#take(file);
      else this.#tell(this.state.words.nofile, true);
    });
    document.addEventListener("paste", (event) => {
      const file = event.clipboardData?.files[0];
      if (file && this === Explorer.inView()) void this.#take(file);
    });
    this.#find('[data-do="camera"]', HTMLElement).hidden = !navigator.mediaDevices?.getUserMedia;
    Explorer.all.push(this);
  }

  /** @type {Explorer[]} */
  static all = [];

  /** The explorer that a pasted picture is for: the focused one, else the first one in sight. */
  static inView() {
    const seen = (/** @type {Explorer} */ { root }) => {
      const { top, bottom } = root.getBoundingClientRect();
      return bottom > 0 && top < innerHeight;
    };
    return Explorer.all.find(({ root }) => root.contains(document.activeElement)) ?? Explorer.all.find(seen);
  }

  /** A click on the map chooses the unit there; a click without a place is the keyboard's. @param {HTMLElement} stage @param {MouseEvent} event */
  #pick(stage, event) {
    if (!this.#seen || event.detail === 0) return void (this.#seen || this.#look(this.shown, true));
    const { height, width } = this.#map(this.choice.path, this.choice.feature);
    const box = stage.getBoundingClientRect();
    const cell = box.width / Math.max(height, width);
    const at = (/** @type {number} */ place, /** @type {number} */ count) => clamp(Math.floor((place - (box.width - count * cell) / 2) / cell), 0, count - 1);
    this.#choose({ unit: [at(event.clientY - box.top, height), at(event.clientX - box.left, width)] });
  }

  /** @param {KeyboardEvent} event */
  #arrow(event) {
    const steps = /** @type {Record<string, [number, number]>} */ ({ ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] });
    const step = steps[event.key];
    const target = event.target instanceof HTMLElement ? event.target.closest("button") : null;
    if (!step || !target) return;
    if (target.dataset.do === "unit") {
      event.preventDefault();
      const { unit: [y, x] } = this.choice;
      this.#choose({ unit: [y + step[0], x + step[1]] });
    } else if (target.classList.contains("zf-cell")) {
      event.preventDefault();
      const rows = this.state.layers.map(({ path }) => this.#cells(path).filter((cell) => cell.offsetParent));
      const row = rows.findIndex((cells) => cells.includes(target));
      const next = rows[clamp(row + step[0], 0, rows.length - 1)];
      const cell = next[clamp(rows[row].indexOf(target) + step[1], 0, next.length - 1)];
      cell.focus();
      cell.click();
    }
  }

  /** Show the network a picture of the reader's own, or say why not. @param {Blob} file @param {string} [name] */
  async #take(file, name = file instanceof File && file.name ? file.name : "pasted.png") {
    try {
      const bitmap = await decodePicture(file, name);
      const { card } = await this.#live();
      this.#tell(this.state.words.reading);
      const pixels = await squareOfBitmap(bitmap, card);
      const view = viewOf(bitmap, card, SIDE);
      bitmap.close();
      const { words } = this.state;
      const alt = fill(words.yours, { name });
      this.photographs.set(name, {
        name, title: name, alt, credit: words.private, python: JSON.stringify(name), wnid: null,
        square: { width: card.input_size, height: card.input_size, pixels },
      });
      let thumb = Array.from(this.root.querySelectorAll("[data-photograph]")).find((known) => known instanceof HTMLElement && known.dataset.photograph === name);
      if (!thumb) {
        const first = this.#find("[data-photograph]", HTMLElement);
        thumb = /** @type {HTMLElement} */ (first.cloneNode(true));
        /** @type {HTMLElement} */ (thumb).dataset.photograph = name;
        first.parentElement?.insertBefore(thumb, this.#find(".zf-own-picture", HTMLElement));
      }
      const image = find(thumb, "img", HTMLImageElement);
      [image.src, image.alt] = [view, alt];
      await this.#look(name);
    } catch (problem) {
      this.#tell(inWords(problem), true);
    }
  }

  /** Take a picture with the camera; the stream ends with the dialog. */
  async #camera() {
    const dialog = this.#find("dialog", HTMLDialogElement);
    const video = find(dialog, "video", HTMLVideoElement);
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (problem) {
      throw new Error(fill(this.state.words.nocamera, { problem: inWords(problem) }));
    }
    video.srcObject = stream;
    await video.play();
    dialog.returnValue = "";
    dialog.showModal();
    await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
    if (dialog.returnValue === "take") {
      const { canvas, context } = canvasOf(video.videoWidth, video.videoHeight);
      context.drawImage(video, 0, 0);
      const blob = await new Promise((/** @type {(blob: Blob | null) => void} */ resolve) => canvas.toBlob(resolve));
      if (blob) await this.#take(blob, "camera.png");
    }
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
  }

  /** What the shown choice is called, as a file. */
  #fileName() {
    const { choice: { path, feature, unit }, state } = this;
    const layer = state.layers.find((known) => known.path === path)?.name ?? path;
    const words = `${this.shown} ${layer} feature ${feature} unit ${unit[0]} ${unit[1]}`;
    return `${words.replace(/[^\p{L}\p{N}.-]/gu, "-")}.png`;
  }

  /** The pictures of the choice beside one another, as PNG. */
  async #save() {
    if (!this.#seen) await this.#look(this.shown, true);
    if (!this.#seen) return;
    await this.#project();
    const { square, view } = this.#seen;
    const photograph = new Image();
    photograph.src = view;
    await photograph.decode();
    const { path, feature } = this.choice;
    const field = this.#field(this.choice);
    const [left, top, right, bottom] = [field.left, field.top, field.right, field.bottom].map((edge) => edge / square.width);
    const { map, width } = this.#map(path, feature);
    const projected = Object.keys(this.state.rules).map((rule) => this.#projections.get(rule) ?? new Float32Array(square.pixels.length));
    const rasters = [colourMap(map, width, this.colours), cut(square, field), ...projected.map((projection) => cut(stretch(projection, square.width), field))];
    const cells = [{ source: photograph, frame: { left, top, right, bottom } }, ...rasters.map((raster) => ({ source: canvasFrom(raster) }))];
    const link = document.createElement("a");
    link.href = contactSheet(cells, this.state.style).toDataURL();
    link.download = this.#fileName();
    link.click();
    this.#tell(fill(this.state.words.saved, { file: link.download }));
  }

  async #copy() {
    const { choice: { path, feature, unit } } = this;
    const pixels = this.photographs.get(this.shown)?.python;
    await copy(fill(this.state.snippet, { pixels, path, feature, row: unit[0], column: unit[1] }));
    this.#tell(this.state.words.copied);
  }
}

for (const root of document.querySelectorAll(".zf-explorer:not([data-on])")) {
  if (root instanceof HTMLElement) new Explorer(root);
}
