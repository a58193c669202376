// @ts-check
/*
 * What all explorers share: the network and its start, the photographs and the reader's own, and what a reader takes
 * along. Python wrote an explorer's markup, which shows a first state without any script, and a few constants in
 * JSON; from the first click on the network in the page computes, and the script of each kind makes the markup show it.
 */

/** @typedef {{name: string, title: string, alt: string, credit: string, python: string, wnid: string | null,
 *             square: string | Raster}} Photograph `square` is what the network sees, as an address or as pixels */
/** @typedef {{explorer: string, network: string, begin: boolean, layers: {name: string, path: string}[], words: Record<string, string>,
 *             snippet: string, colours: string, style: {grey: number, crispBelow: number, frame: string},
 *             photographs: Photograph[], start: {photograph: string}}} State */
/** @typedef {{photograph: Photograph, view: string, square: Raster, input: Float32Array, values: Values}} Seen
 *             `input` is (3, S, S) as the network takes it */

const SIDE = 384; // pixels a side of a reader's photograph as it is shown

/** Fill `{name}` in a template of Python's. @param {string} template @param {Record<string, unknown>} values */
const fill = (template, values) => template.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));

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

/** An element with text and attributes. @template {keyof HTMLElementTagNameMap} T @param {T} tag @param {string} text
 *  @param {Record<string, string>} [attributes] */
function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** @param {string} source */
async function imageOf(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return image;
}

/** @param {string} text */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages from disk may not write to the clipboard: select a hidden text and copy that.
    const before = document.activeElement;
    const area = document.createElement("textarea");
    area.value = text;
    area.style.cssText = "position:fixed;inset-block-start:0;opacity:0";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (before instanceof HTMLElement) before.focus();
    if (!done) throw new Error("the browser refused to copy");
  }
}

/** Have the page's address point to what is shown. @param {string} hash @returns {string} the whole address */
function pointTo(hash) {
  try {
    history.replaceState(history.state, "", hash);
  } catch {
    // Some browsers refuse what is asked too often: the address can wait.
  }
  return new URL(hash, location.href).href;
}

/** @template {State} [S=State] */
class Explorer {
  /** @type {Explorer<any>[]} */
  static all = [];

  /** The explorer that a pasted picture is for: the focused one, else the first one in sight. */
  static inView() {
    const seen = (/** @type {Explorer<any>} */ { root }) => {
      const { top, bottom } = root.getBoundingClientRect();
      return bottom > 0 && top < innerHeight;
    };
    return Explorer.all.find(({ root }) => root.contains(document.activeElement)) ?? Explorer.all.find(seen);
  }

  /** Bring every explorer of a kind in this page to life.
   *  @param {string} kind @param {new (root: HTMLElement) => Explorer<any>} Kind */
  static begin(kind, Kind) {
    for (const root of document.querySelectorAll(`.zf-explorer[data-explorer="${kind}"]:not([data-on])`)) {
      if (root instanceof HTMLElement) new Kind(root).begin();
    }
  }

  /** @type {Network | undefined} */
  network;
  /** @type {Seen | undefined} */
  seen;
  /** What the buttons do, by their `data-do`. @type {Record<string, (button: HTMLElement, event: MouseEvent) => unknown>} */
  acts = {
    load: () => this.looking(),
    picture: () => this.#save(),
    python: () => this.#copy(),
    camera: () => this.#camera(),
  };
  #turn = 0; // of photographs: a later one overtakes an earlier one
  /** @type {Promise<void> | undefined} */
  #look; // the latest, until it is done
  /** @type {Promise<boolean> | undefined} */
  #looking; // for the first of all
  #wish = 0; // the reader's for a photograph: one that is read slowly is not shown after a later one
  #filming = false;

  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
    this.lane = `explorer ${Explorer.all.push(this)}`;
    /** @type {S} */
    this.state = JSON.parse(find(root, "script.zf-state", HTMLScriptElement).text);
    this.colours = Uint8Array.from(atob(this.state.colours), (letter) => letter.charCodeAt(0));
    this.photographs = new Map(this.state.photographs.map((photograph) => [photograph.name, photograph]));
    this.shown = this.state.start.photograph;
  }

  begin() {
    this.root.dataset.on = "";
    this.wire();
    this.#announce();
    const { assets, parts } = store();
    const inside = [RUNTIME, this.state.network].every((name) => assets[name]?.files.every((file) => file in parts));
    if (this.state.begin && inside) void this.looking(); // what has to be loaded waits for a click
  }

  // -------------------------------------------------------------------------- what each kind does in its own way
  /** Which values of the network a photograph's forward pass brings. @param {Network} network */
  outputs(network) {
    const paths = this.state.layers.map(({ path }) => path);
    return network.manifest.layers.some(({ name }) => name === "logits") ? [...paths, "logits"] : paths;
  }

  /** A photograph was looked at. @param {boolean} _keep whether what was chosen on the last one is still wanted
   *  @returns {void | Promise<void>} */
  looked(_keep) {}

  /** A control was changed. @param {HTMLInputElement | HTMLSelectElement} _control */
  changed(_control) {}

  /** An arrow key was pressed on a button. @param {HTMLElement} _button @param {[number, number]} _step down, across
   *  @returns {boolean} whether it meant something there */
  arrow(_button, _step) {
    return false;
  }

  /** What is saved as a picture, and its name without an ending. @returns {Promise<{canvas: HTMLCanvasElement, name: string} | undefined>} */
  async sheet() {
    return undefined;
  }

  /** What fills the gaps of the Python. @returns {Record<string, unknown>} */
  python() {
    return {};
  }

  // -------------------------------------------------------------------------- saying and finding
  /** @template {Element} T @param {string} selector @param {new () => T} kind */
  find(selector, kind) {
    return find(this.root, selector, kind);
  }

  /** @param {string} words @param {boolean} [problem] */
  tell(words, problem = false) {
    const status = this.find(".zf-status", HTMLElement);
    const said = words || (this.#barred() ? "" : this.state.words.hint);
    if (status.textContent !== said) status.textContent = said; // else it would be read out again
    status.classList.toggle("zf-problem", problem);
  }

  /** Do something that may fail, and tell if it does. @param {() => unknown} act */
  async attempt(act) {
    try {
      await act();
    } catch (problem) {
      this.busy(false);
      this.tell(inWords(problem), true);
    }
  }

  /** @param {boolean} busy */
  busy(busy) {
    this.root.setAttribute("aria-busy", `${busy}`);
  }

  /** @param {string} path */
  layerName(path) {
    return this.state.layers.find((known) => known.path === path)?.name ?? path;
  }

  // -------------------------------------------------------------------------- bringing the network
  /** Why the network cannot run here, in words; empty if it can. */
  #barred() {
    return missing() || (this.state.network in store().assets ? "" : this.state.words.absent);
  }

  /** Say how much the first click loads. */
  #announce() {
    const barred = this.#barred();
    const size = () => `${Math.max(1, Math.round(bytesToCome([RUNTIME, this.state.network]) / 1e6))} MB`;
    this.find(".zf-size", HTMLElement).textContent = barred || fill(this.state.words.begin, { size: size() });
    this.find('[data-do="load"]', HTMLElement).hidden = Boolean(barred);
    this.tell("");
    if (barred) return;
    for (const control of this.root.querySelectorAll("button, input, select")) control.removeAttribute("disabled");
    document.addEventListener("zfcore:network", async (event) => {
      if (!(event instanceof CustomEvent && event.detail === this.state.network)) return;
      this.find(".zf-begin", HTMLElement).hidden = true;
      this.network ??= await Network.load(this.state.network);
    });
  }

  /** The network; brought here by the first wish. @returns {Promise<Network>} */
  async live() {
    if (this.network) return this.network;
    const barred = this.#barred();
    if (barred) throw new Error(barred);
    const bar = this.find("progress", HTMLProgressElement);
    const load = this.find('[data-do="load"]', HTMLElement);
    const focused = document.activeElement === load;
    load.hidden = true;
    bar.hidden = false;
    try {
      this.network = await Network.load(this.state.network, (done, of) => {
        bar.value = of ? done / of : 1;
        this.tell(done < of ? this.state.words.loading : this.state.words.starting);
      });
      this.tell("");
      document.dispatchEvent(new CustomEvent("zfcore:network", { detail: this.state.network }));
    } finally {
      bar.hidden = true;
      load.hidden = false;
      if (focused && document.activeElement === document.body) this.#firstControl()?.focus(); // it was lost with the button
    }
    return this.network;
  }

  /** The first that the Tab key would reach. @returns {HTMLElement | undefined} */
  #firstControl() {
    const controls = Array.from(this.root.querySelectorAll("button, input, select"));
    return controls.flatMap((control) => (control instanceof HTMLElement && control.offsetParent && control.tabIndex === 0 ? [control] : []))[0];
  }

  // -------------------------------------------------------------------------- looking at a photograph
  /** Show a photograph to the network. @param {string} name @param {boolean} [keep] as in `looked` */
  look(name, keep = false) {
    const turn = ++this.#turn;
    const look = this.attempt(async () => {
      const network = await this.live();
      const photograph = this.photographs.get(name);
      if (!photograph || turn !== this.#turn) return;
      if (typeof photograph.square === "string") photograph.square = rasterOf(await imageOf(photograph.square));
      const input = toInput(photograph.square.pixels, network.mean, network.card);
      this.busy(true);
      const values = await network.forward({ pictures: input, outputs: this.outputs(network) }, { lane: `${this.lane} forward` });
      if (!values || turn !== this.#turn) return;
      this.shown = name;
      const thumb = this.#thumb(name);
      if (!thumb) throw new Error(`no photograph ${name}`);
      this.seen = { photograph, view: find(thumb, "img", HTMLImageElement).src, square: photograph.square, input, values };
      for (const button of this.root.querySelectorAll("[data-photograph]")) button.setAttribute("aria-pressed", `${button === thumb}`);
      this.find(".zf-credit", HTMLElement).textContent = photograph.credit;
      await this.looked(keep);
    }).then(() => {
      if (turn === this.#turn) this.#look = undefined;
    });
    return (this.#look = look);
  }

  /** Have a photograph looked at, if none was yet: the chosen one that waits for the network, else the shown one;
   *  whether that went well. */
  async looking() {
    return this.seen ? true : (this.#looking ??= this.#untilSeen()); // one for all: who waits goes on in its turn
  }

  async #untilSeen() {
    if (!this.#look) void this.look(this.shown, true);
    while (!this.seen && this.#look) await this.#look; // a later one may have overtaken it
    this.#looking = undefined;
    return Boolean(this.seen);
  }

  /** Do something at once, or as soon as a photograph was looked at. @param {() => unknown} act */
  onceSeen(act) {
    return this.attempt(async () => {
      if (this.seen || (await this.looking())) await act();
    });
  }

  /** What was seen of the shown photograph. @returns {Seen} */
  sight() {
    if (!this.seen) throw new Error("nothing was looked at yet");
    return this.seen;
  }

  /** @param {string} name */
  #thumb(name) {
    const thumbs = Array.from(this.root.querySelectorAll("[data-photograph]"));
    return thumbs.find((thumb) => /** @type {HTMLElement} */ (thumb).dataset.photograph === name);
  }

  /** One map of the shown photograph. @param {string} path @param {number} feature */
  map(path, feature) {
    const { dims: [, , height, width], data } = this.sight().values[path];
    return { height, width, map: data.subarray(feature * height * width, (feature + 1) * height * width) };
  }

  /** The features of a layer by their strongest units: [feature, value], the lower number first among equals. @param {string} path */
  strongest(path) {
    const features = this.sight().values[path].dims[1];
    const peaks = Array.from({ length: features }, (_, n) => /** @type {[number, number]} */ ([n, this.map(path, n).map.reduce((a, b) => Math.max(a, b))]));
    return peaks.sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  }

  // -------------------------------------------------------------------------- showing
  /** @param {string} name */
  panel(name) {
    return this.find(`[data-panel="${name}"]`, HTMLElement);
  }

  /** @param {Element} panel @param {Raster} raster @param {string} words */
  paint(panel, raster, words) {
    const image = find(panel, "img", HTMLImageElement);
    image.src = canvasFrom(raster).toDataURL();
    image.alt = words;
    image.classList.toggle("zf-crisp", Math.max(raster.width, raster.height) < this.state.style.crispBelow);
  }

  /** Put the frame of a panel around a part of it. @param {string} name @param {number} side @param {Field} field @param {boolean} visible */
  mark(name, side, { left, top, right, bottom }, visible = true) {
    const overlay = find(this.panel(name), "svg", SVGElement);
    overlay.setAttribute("viewBox", `0 0 ${side} ${side}`);
    overlay.toggleAttribute("hidden", !visible);
    for (const rect of overlay.querySelectorAll("rect")) {
      for (const [key, value] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top })) rect.setAttribute(key, `${value}`);
    }
  }

  /** The small maps of features. */
  cells() {
    return Array.from(this.root.querySelectorAll(".zf-cell")).flatMap((cell) => (cell instanceof HTMLElement ? [cell] : []));
  }

  /** Mark the small map of a feature, if it has one. @param {{path: string, feature: number}} choice */
  check({ path, feature }) {
    for (const cell of this.cells()) {
      const { dataset } = cell;
      cell.setAttribute("aria-checked", `${!cell.hidden && dataset.path === path && dataset.feature === `${feature}`}`);
    }
    this.rove();
  }

  /** One tab stop for all small maps in sight, of which a phone has fewer: the chosen one, else the first. */
  rove() {
    const cells = this.cells();
    const seen = cells.filter((cell) => cell.offsetParent);
    const stop = seen.find((cell) => cell.getAttribute("aria-checked") === "true") ?? seen[0];
    if (stop) cells.forEach((cell) => (cell.tabIndex = cell === stop ? 0 : -1)); // else the explorer is out of sight
  }

  /** The photograph with its words. */
  drawPhotograph() {
    const { photograph, view } = this.sight();
    const panel = this.panel("photograph");
    const image = find(panel, "img", HTMLImageElement);
    [image.src, image.alt] = [view, photograph.alt];
    find(panel, "figcaption span", HTMLElement).textContent = photograph.title;
  }

  /** What a class is called. @param {number} n */
  label(n) {
    return this.network?.card.labels?.[n] ?? `class ${n}`;
  }

  /** Whether a class is the photograph's own. @param {number} n */
  isOwn(n) {
    const { wnid } = this.sight().photograph;
    return Boolean(wnid && this.network?.card.classes?.[n] === wnid);
  }

  /** The photograph's own class, where the network knows it; else the one it takes it for. @param {Float64Array} probabilities */
  target(probabilities) {
    const own = this.network?.card.classes?.indexOf(this.sight().photograph.wnid ?? "") ?? -1;
    return own >= 0 ? own : mostProbable(probabilities);
  }

  /** A bar with a mark where it was before. @param {string} name @param {number} value @param {number} before
   *  @param {number} most @param {string} words */
  drawMeter(name, value, before, most, words) {
    const meter = this.find(`[data-meter="${name}"]`, HTMLElement);
    find(meter, "span", HTMLElement).textContent = words;
    find(meter, "i", HTMLElement).style.inlineSize = `${(100 * Math.min(value, most)) / most}%`;
    find(meter, "u", HTMLElement).style.insetInlineStart = `${(100 * before) / most}%`;
  }

  /** The five best labels. @param {ArrayLike<number>} probabilities */
  drawGuesses(probabilities) {
    const best = Array.from(probabilities, (_, n) => n).sort((a, b) => probabilities[b] - probabilities[a]).slice(0, 5);
    const line = (/** @type {number} */ n) => {
      const own = this.isOwn(n);
      const item = element("li", "", own ? { class: "zf-own" } : {});
      const bar = element("i", "");
      bar.style.inlineSize = `${(100 * probabilities[n]).toFixed(1)}%`;
      item.append(element("span", this.label(n) + (own ? ` ${this.state.words.right}` : "")), " ", element("b", percent(probabilities[n])), bar);
      return item;
    };
    this.find(".zf-guesses ol", HTMLElement).replaceChildren(...best.map(line));
  }

  // -------------------------------------------------------------------------- the reader's hands
  wire() {
    const { root } = this;
    root.addEventListener("click", (event) => {
      const target = event.target instanceof Element ? event.target.closest("button") : null;
      if (!target || !root.contains(target)) return;
      const { photograph, do: task } = target.dataset;
      if (photograph !== undefined) {
        this.#wish++;
        void this.look(photograph);
      } else if (task && task in this.acts) void this.attempt(() => this.acts[task](target, event));
    });
    root.addEventListener("input", ({ target }) => {
      const control = target instanceof HTMLInputElement || target instanceof HTMLSelectElement ? target : null;
      if (control?.dataset.choice && control.value !== "") this.changed(control);
    });
    root.addEventListener("keydown", (event) => {
      const steps = /** @type {Record<string, [number, number]>} */ ({ ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] });
      const button = event.target instanceof HTMLElement ? event.target.closest("button") : null;
      if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return; // the browser's own
      if (event.key in steps && button && this.arrow(button, steps[event.key])) event.preventDefault();
    });
    this.find('input[type="file"]', HTMLInputElement).addEventListener("change", ({ target }) => {
      if (target instanceof HTMLInputElement && target.files?.[0]) void this.take(target.files[0]);
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
      if (file) void this.take(file);
      else this.tell(this.state.words.nofile, true);
    });
    document.addEventListener("paste", ({ target, clipboardData }) => {
      const text = target instanceof HTMLElement && (target.isContentEditable || target.matches("input, textarea"));
      if (text || clipboardData?.types.includes("text/plain")) return; // it is meant for another
      const file = clipboardData?.files[0];
      if (file && this === Explorer.inView()) void this.take(file);
    });
    addEventListener("resize", () => this.rove());
    this.rove();
    this.find('[data-do="camera"]', HTMLElement).hidden = !navigator.mediaDevices?.getUserMedia;
  }

  /** Where a pointer is on a square stage that holds height × width cells: [y, x], a fraction within the cell.
   *  @param {HTMLElement} stage @param {{clientX: number, clientY: number}} event @param {number} height @param {number} width
   *  @returns {[number, number]} */
  place(stage, event, height, width) {
    const box = stage.getBoundingClientRect();
    const cell = box.width / Math.max(height, width);
    const at = (/** @type {number} */ place, /** @type {number} */ count) => (place - (box.width - count * cell) / 2) / cell;
    return [at(event.clientY - box.top, height), at(event.clientX - box.left, width)];
  }

  /** Show the network a picture of the reader's own, or say why not. @param {Blob} file @param {string} [name] */
  take(file, name = file instanceof File && file.name ? file.name : "pasted.png") {
    return this.attempt(async () => {
      const wish = ++this.#wish;
      const { square, view } = await this.#read(file, name);
      const { words } = this.state;
      const python = JSON.stringify(name);
      for (let n = 2, own = name; this.photographs.has(name); n++) name = `${own} (${n})`;
      const alt = fill(words.yours, { name });
      this.photographs.set(name, { name, title: name, alt, credit: words.private, python, wnid: null, square });
      const first = this.find("[data-photograph]", HTMLElement);
      const thumb = /** @type {HTMLElement} */ (first.cloneNode(true));
      Object.assign(thumb, { title: name, ariaPressed: "false" }).dataset.photograph = name;
      first.parentElement?.insertBefore(thumb, this.find(".zf-own-picture", HTMLElement));
      const image = find(thumb, "img", HTMLImageElement);
      [image.src, image.alt] = [view, alt];
      this.tell("");
      if (wish === this.#wish) await this.look(name);
    });
  }

  /** A picture file as the network sees it, and as the reader does. @param {Blob} file @param {string} name */
  async #read(file, name) {
    const bitmap = await decodePicture(file, name);
    try {
      const { card } = await this.live();
      this.tell(this.state.words.reading);
      const pixels = await squareOfBitmap(bitmap, card);
      return { square: { width: card.input_size, height: card.input_size, pixels }, view: viewOf(bitmap, card, SIDE) };
    } finally {
      bitmap.close();
    }
  }

  /** Take a picture with the camera; the stream ends with the dialog. */
  async #camera() {
    if (this.#filming) return;
    const dialog = this.find("dialog", HTMLDialogElement);
    const video = find(dialog, "video", HTMLVideoElement);
    /** @param {unknown} problem @returns {never} */
    const fail = (problem) => {
      throw new Error(fill(this.state.words.nocamera, { problem: inWords(problem) }));
    };
    /** @type {MediaStream | undefined} */
    let stream;
    /** @type {Blob | null} */
    let taken = null;
    this.#filming = true;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } }).catch(fail);
      video.srcObject = stream;
      await video.play();
      dialog.returnValue = "";
      dialog.showModal();
      await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
      if (dialog.returnValue === "take") {
        if (!video.videoWidth) fail("it has sent no picture yet");
        const { canvas, context } = canvasOf(video.videoWidth, video.videoHeight);
        context.drawImage(video, 0, 0);
        taken = await new Promise((/** @type {(blob: Blob | null) => void} */ resolve) => canvas.toBlob(resolve));
      }
    } finally {
      for (const track of stream?.getTracks() ?? []) track.stop();
      video.srcObject = null;
      this.#filming = false;
    }
    if (taken) await this.take(taken, "camera.png");
  }

  async #save() {
    const found = await this.sheet();
    if (!found) return;
    const link = document.createElement("a");
    link.href = found.canvas.toDataURL();
    link.download = `${found.name.replace(/[^\p{L}\p{N}.-]/gu, "-")}.png`;
    link.click();
    this.tell(fill(this.state.words.saved, { file: link.download }));
  }

  async #copy() {
    await copy(fill(this.state.snippet, { pixels: this.photographs.get(this.shown)?.python, ...this.python() }));
    this.tell(this.state.words.copied);
  }
}
