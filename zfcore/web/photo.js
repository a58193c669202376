// @ts-check
/* The photograph explorer: choose a photograph, a layer, a feature and a unit; see where it answers, and to what. */

/** @typedef {{path: string, feature: number, unit: [number, number]}} Choice unit is [y, x] in the map */
/** @typedef {State & {rules: Record<string, string>, gallery: GalleryState | null, start: Choice}} PhotoState */

/** @extends {Explorer<PhotoState>} */
class PhotoExplorer extends Explorer {
  /** @type {Map<string, Float32Array>} */
  #projections = new Map(); // of the shown choice, by rule

  /** @param {HTMLElement} root */
  constructor(root) {
    super(root);
    const { gallery, start: { path, feature, unit } } = this.state;
    this.gallery = gallery ? new Gallery(gallery) : undefined;
    /** @type {Choice} */
    this.choice = { path, feature, unit };
    Object.assign(this.acts, {
      strongest: () => this.#choose({ feature: this.choice.feature }),
      cell: (/** @type {HTMLElement} */ { dataset: { path, feature } }) => this.#choose({ path: path ?? "", feature: Number(feature) }),
      unit: (/** @type {HTMLElement} */ stage, /** @type {MouseEvent} */ event) => this.#pick(stage, event),
    });
  }

  /** @override @param {boolean} keep */
  looked(keep) {
    const { values } = this.sight();
    this.drawPhotograph();
    if (values.logits) this.drawGuesses(softmax(values.logits.data));
    this.#drawLayers();
    this.#choose(keep ? {} : { feature: this.strongest(this.choice.path)[0][0] });
  }

  /** @param {string} path @param {number} feature @returns {[number, number]} */
  #strongestUnit(path, feature) {
    const { width, map } = this.map(path, feature);
    const best = map.indexOf(map.reduce((a, b) => Math.max(a, b)));
    return [Math.floor(best / width), best % width];
  }

  /** The receptive field of a unit, clipped to the picture, of which it keeps one pixel at least. @param {Choice} choice @returns {Field} */
  #field({ path, unit }) {
    const { layers, input_size: side } = /** @type {Network} */ (this.network).manifest;
    const geometry = layers.find((layer) => layer.name === path)?.geometry;
    if (!geometry) return { top: 0, left: 0, bottom: side, right: side }; // it is unknown
    const [[top, bottom], [left, right]] = unit.map((u, axis) => {
      const first = geometry.offset[axis] + u * geometry.stride[axis];
      const inside = clamp(first, 0, side - 1);
      return [inside, clamp(first + geometry.receptive_field[axis], inside + 1, side)];
    });
    return { top, left, bottom, right };
  }

  // -------------------------------------------------------------------------- choosing
  /** Change the choice. Another layer begins at its strongest feature, another feature at its strongest unit.
   *  @param {{path?: string, feature?: number, row?: number, column?: number}} change */
  #choose(change) {
    if (!this.seen) return void this.onceSeen(() => this.#choose(change));
    const path = change.path ?? this.choice.path;
    const features = this.seen.values[path].dims[1];
    const feature = change.feature ?? (change.path ? this.strongest(path)[0][0] : this.choice.feature);
    const chosen = clamp(feature, 0, features - 1);
    const anew = change.path !== undefined || change.feature !== undefined;
    const { height, width } = this.map(path, chosen);
    const [row, column] = anew ? this.#strongestUnit(path, chosen) : this.choice.unit;
    const [y, x] = [change.row ?? row, change.column ?? column];
    this.choice = { path, feature: chosen, unit: [clamp(y, 0, height - 1), clamp(x, 0, width - 1)] };
    this.#projections.clear();
    this.#drawChoice();
    void this.#project();
    void this.attempt(() => this.#drawLooks());
  }

  #project() {
    return this.attempt(async () => {
      const { choice } = this;
      const network = await this.live();
      if (!this.seen) return;
      this.busy(true);
      const { input: picture } = this.seen;
      const rules = Object.keys(this.state.rules);
      const found = await Promise.all(rules.map((rule) => network.project(
        { layer: choice.path, picture, channel: choice.feature, position: choice.unit, rule: network.manifest.rules.indexOf(rule) },
        { lane: `${this.lane} ${rule}` },
      )));
      if (choice !== this.choice) return; // a later choice has overtaken this one
      rules.forEach((rule, n) => {
        const projection = found[n];
        if (projection) this.#projections.set(rule, projection);
      });
      this.#drawProjections();
      this.busy(false);
    });
  }

  // -------------------------------------------------------------------------- showing
  /** The strongest maps of every layer, as small pictures. */
  #drawLayers() {
    for (const { name, path } of this.state.layers) {
      const strongest = this.strongest(path);
      this.#cells(path).forEach((cell, n) => {
        const [feature, value] = strongest[n];
        const { map, width } = this.map(path, feature);
        cell.dataset.feature = `${feature}`;
        this.paint(cell, colourMap(map, width, this.colours), fill(this.state.words.cell, { layer: name, feature, value: digits(value) }));
      });
    }
  }

  /** @param {string} path */
  #cells(path) {
    return this.cells().filter(({ dataset }) => dataset.path === path);
  }

  /** All of a choice that needs no projection. */
  #drawChoice() {
    const { choice: { path, feature, unit: [y, x] }, state } = this;
    const { square, photograph } = this.sight();
    const { height, width, map } = this.map(path, feature);
    const field = this.#field(this.choice);
    const layer = this.layerName(path);
    const value = map[y * width + x];
    this.check(this.choice);
    const words = fill(state.words.map, { layer, feature });
    this.paint(this.panel("map"), colourMap(map, width, this.colours), words);
    find(this.panel("map"), "figcaption span", HTMLElement).textContent = words;
    find(this.panel("map"), "figcaption small", HTMLElement).textContent = path === layer ? "" : path;
    const shift = [(Math.max(height, width) - height) / 2, (Math.max(height, width) - width) / 2];
    this.mark("map", Math.max(height, width), { top: y + shift[0], left: x + shift[1], bottom: y + shift[0] + 1, right: x + shift[1] + 1 });
    this.mark("photograph", square.width, field);
    this.paint(this.panel("patch"), cut(square, field), state.words.patch);
    for (const [name, number, most] of /** @type {[string, number, number][]} */ ([
      ["feature", feature, this.sight().values[path].dims[1] - 1], ["row", y, height - 1], ["column", x, width - 1],
    ])) {
      const input = this.find(`[data-choice="${name}"]`, HTMLInputElement);
      input.max = `${most}`;
      if (document.activeElement !== input || input.value !== "") input.value = `${number}`;
    }
    this.find(".zf-says", HTMLElement).textContent = fill(value === 0 ? state.words.silent : state.words.says, {
      title: photograph.title, layer, feature, value: digits(value), row: y, column: x, rows: height, columns: width,
      height: field.bottom - field.top, width: field.right - field.left, side: square.width,
    });
    this.tell("");
  }

  #drawProjections() {
    const { square } = this.sight();
    for (const [rule, words] of Object.entries(this.state.rules)) {
      const projection = this.#projections.get(rule);
      if (projection) this.paint(this.panel(rule), cut(stretch(projection, square.width), this.#field(this.choice)), fill(this.state.words.projection, { rule: words }));
    }
  }

  /** What the feature looks for anywhere, and what the strongest features of its layer are called. */
  async #drawLooks() {
    const { choice, gallery, state: { words, style } } = this;
    const { path, feature } = choice;
    if (!gallery) return;
    const looks = this.find(".zf-looks", HTMLElement);
    looks.hidden = !gallery.has(path, feature);
    const nines = new Map();
    const strongest = this.strongest(path).slice(0, this.find(".zf-named ol", HTMLElement).children.length).map(([number]) => number);
    for (const number of [feature, ...strongest]) if (gallery.has(path, number)) nines.set(number, await gallery.nine(path, number));
    if (choice !== this.choice) return; // a later choice has overtaken this one
    const nine = nines.get(feature);
    if (nine) {
      find(looks, "p", HTMLElement).textContent = fill(words.looks, { feature, n: gallery.about.n?.toLocaleString("en") ?? "" });
      drawNine(find(looks, "ol", HTMLElement), nine.projections, nine.hits.map(toldOf(words)), nine.hits.map((/** @type {Hit | null} */ hit) => (hit ? nameOf(hit) : "")), style);
    }
    this.root.querySelectorAll(".zf-named button").forEach((button, n) => {
      if (!(button instanceof HTMLElement)) return;
      const labels = named(nines.get(strongest[n])?.hits ?? [], words).slice(0, 2).join(", ");
      Object.assign(button.dataset, { path, feature: `${strongest[n]}` });
      button.textContent = fill(labels ? words.named : words.unnamed, { feature: strongest[n], labels });
    });
  }

  // -------------------------------------------------------------------------- the reader's hands
  /** @override @param {HTMLInputElement | HTMLSelectElement} control */
  changed({ dataset: { choice }, value }) {
    this.#choose({ [choice ?? ""]: Math.round(Number(value)) });
  }

  /** A click on the map chooses the unit there; a click without a place is the keyboard's. @param {HTMLElement} stage @param {MouseEvent} event */
  async #pick(stage, event) {
    const at = this.place(stage, event, 1, 1); // the page may move while the network is brought
    if (!(await this.looking()) || event.detail === 0) return;
    const { height, width } = this.map(this.choice.path, this.choice.feature);
    const longest = Math.max(height, width);
    const [row, column] = [height, width].map((count, axis) => Math.floor(at[axis] * longest - (longest - count) / 2));
    this.#choose({ row, column });
  }

  /** @override @param {HTMLElement} button @param {[number, number]} step */
  arrow(button, step) {
    if (button.dataset.do === "unit") {
      void this.onceSeen(() => {
        const { unit: [y, x] } = this.choice;
        this.#choose({ row: y + step[0], column: x + step[1] });
      });
      return true;
    }
    const rows = this.state.layers.map(({ path }) => this.#cells(path).filter((cell) => cell.offsetParent));
    const row = rows.findIndex((cells) => cells.includes(button));
    if (row < 0) return false;
    const next = rows[clamp(row + step[0], 0, rows.length - 1)];
    const cell = next[clamp(rows[row].indexOf(button) + step[1], 0, next.length - 1)];
    cell.focus();
    cell.click();
    return true;
  }

  /** @override The pictures of the choice beside one another. */
  async sheet() {
    if (!(await this.looking())) return undefined;
    let choice;
    do {
      choice = this.choice;
      await this.#project();
    } while (choice !== this.choice); // overtaken
    if (this.#projections.size < Object.keys(this.state.rules).length) return undefined; // it failed, which is told
    const { square, view, photograph } = this.sight();
    const { path, feature, unit } = choice;
    const field = this.#field(choice);
    const [left, top, right, bottom] = [field.left, field.top, field.right, field.bottom].map((edge) => edge / square.width);
    const { map, width } = this.map(path, feature);
    const projected = Object.keys(this.state.rules).flatMap((rule) => this.#projections.get(rule) ?? []);
    const rasters = [colourMap(map, width, this.colours), cut(square, field), ...projected.map((projection) => cut(stretch(projection, square.width), field))];
    const cells = [{ source: await imageOf(view), frame: { left, top, right, bottom } }, ...rasters.map((raster) => ({ source: canvasFrom(raster) }))];
    const name = `${photograph.name} ${this.layerName(path)} feature ${feature} unit ${unit[0]} ${unit[1]}`;
    return { canvas: contactSheet(cells, this.state.style), name };
  }

  /** @override */
  python() {
    const { path, feature, unit: [row, column] } = this.choice;
    return { path, feature, row, column };
  }
}

Explorer.begin("photo", PhotoExplorer);
