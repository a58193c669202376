// @ts-check
/* The feature explorer (Fig. 2): choose a layer and a feature; see the nine pictures that excite it most. */

/** @typedef {{path: string, feature: number}} Feature */
/** @typedef {State & {gallery: GalleryState, crops: string | null, card: Card, start: Feature}} FeatureState */

/** @extends {Explorer<FeatureState>} */
class FeatureExplorer extends Explorer {
  #turn = 0; // of choices: a later one overtakes an earlier one

  /** @param {HTMLElement} root */
  constructor(root) {
    super(root);
    const { gallery, crops, start: { path, feature } } = this.state;
    this.gallery = new Gallery(gallery);
    this.crops = crops ? new Crops(crops, this.photographs) : undefined;
    /** @type {Feature} */
    this.choice = { path, feature };
    Object.assign(this.acts, {
      previous: () => this.#step(-1),
      next: () => this.#step(1),
      random: () => this.#choose({ feature: this.#features()[Math.floor(Math.random() * this.#features().length)] }),
      cell: (/** @type {HTMLElement} */ { dataset: { path, feature } }) => this.#choose({ path: path ?? "", feature: Number(feature) }),
      link: async () => {
        await copy(this.#address());
        this.tell(this.state.words.copied);
      },
    });
  }

  /** @override */
  begin() {
    super.begin();
    const here = this.state.gallery.layers.every(({ asset }) => asset in store().assets);
    for (const control of this.root.querySelectorAll(".zf-choices :is(button, input, select), .zf-take button")) control.toggleAttribute("disabled", !here || Boolean(missing()));
    const first = document.querySelector('.zf-explorer[data-explorer="feature"]') === this.root;
    if (!here || !first) return; // a page's address can tell of one explorer only
    addEventListener("hashchange", () => this.#follow());
    this.#follow();
  }

  // -------------------------------------------------------------------------- choosing
  #features() {
    return this.gallery.walls.get(this.choice.path)?.features ?? [];
  }

  /** @param {number} by */
  #step(by) {
    const features = this.#features();
    const at = features.indexOf(this.choice.feature) + by;
    return this.#choose({ feature: features[(at + features.length) % features.length] });
  }

  /** The nearest feature that is shown, and the page's address after it. Another layer begins at its strongest feature
   *  on the photograph, if one was looked at. @param {Partial<Feature>} change */
  #choose(change) {
    Object.assign(this.choice, change.path ? { path: change.path, feature: NaN } : {});
    const features = this.#features();
    const wanted = change.feature ?? (this.seen ? this.#strongestShown()[0][0] : features[0]);
    const feature = features.reduce((best, known) => (Math.abs(known - wanted) < Math.abs(best - wanted) ? known : best));
    this.choice = { path: this.choice.path, feature };
    this.tell(feature === wanted ? "" : fill(this.state.words.nearest, { wanted, feature, count: features.length, layer: this.layerName(this.choice.path) }));
    this.#address();
    return this.#show();
  }

  /** @param {string} name */
  #slug(name) {
    return name.replace(/[^\w.]+/g, "-").toLowerCase();
  }

  /** A link to what is shown. */
  #address() {
    const { path, feature } = this.choice;
    return pointTo(`#feature=${this.#slug(this.layerName(path))}/${feature}`);
  }

  /** Go where the page's address points to, if it is a feature. */
  #follow() {
    let address = "";
    try {
      address = decodeURIComponent(location.hash);
    } catch {
      // Cut off within a letter: it points to nothing here.
    }
    const [, layer, number] = /^#feature=(.+)\/(\d+)$/.exec(address) ?? [];
    const wall = Array.from(this.gallery.walls.values()).find(({ name, path }) => layer === this.#slug(name) || layer === path);
    if (!wall) return;
    void this.attempt(() => this.#choose({ path: wall.path, feature: Number(number) }));
    this.root.scrollIntoView();
  }

  // -------------------------------------------------------------------------- showing
  /** All of the choice, and of the photograph what another explorer's network may be here to say. */
  async #show() {
    const turn = ++this.#turn;
    if (this.network && !this.seen) {
      if ((await this.looking()) || turn !== this.#turn) return; // it is shown
    }
    try {
      await this.#draw(turn);
    } catch (problem) {
      if (turn === this.#turn) throw problem; // what was overtaken is nobody's concern
    }
  }

  /** @param {number} turn */
  async #draw(turn) {
    const { path, feature } = this.choice;
    this.busy(true);
    this.#drawControls();
    if (this.seen) this.#drawStrongest();
    this.check(this.choice);
    const nine = await this.gallery.nine(path, feature);
    if (turn !== this.#turn) return;
    const { words, style, gallery: { about } } = this.state;
    const told = nine.hits.map(toldOf(words));
    const labels = nine.hits.map((hit) => (hit ? nameOf(hit) : ""));
    drawNine(this.find('[data-nine="projections"]', HTMLElement), nine.projections, told, labels, style);
    const patches = this.root.querySelector('[data-nine="patches"]');
    if (patches instanceof HTMLElement) drawNine(patches, nine.patches, told, labels, style);
    const most = nine.hits[0];
    const frequent = named(nine.hits, words).join(", ");
    this.find(".zf-says", HTMLElement).textContent = fill(most ? words.features : words.dead, {
      layer: this.layerName(path), feature, labels: frequent, value: digits(most?.[2] ?? 0), n: about.n?.toLocaleString("en") ?? "",
    });
    this.find(".zf-hits", HTMLElement).replaceChildren(...told.filter(Boolean).map((words) => element("li", words.replace(/^\d+\. /, ""))));
    const projected = this.root.querySelector('[data-nine="cropProjections"]');
    projected?.setAttribute("aria-busy", "true"); // these may come later: the reader has the nine hits now
    this.busy(false);
    try {
      await this.#showCrops(turn);
    } finally {
      if (turn === this.#turn) projected?.setAttribute("aria-busy", "false");
    }
  }

  /** The nine strongest crops of the page's photographs; their projections once the network is there. @param {number} turn */
  async #showCrops(turn) {
    const { path, feature } = this.choice;
    if (!this.crops) return;
    const { network } = this; // which may arrive while the crops are cut
    const card = network ? { ...network.card, mean: network.mean } : { ...this.state.card, mean: undefined };
    const crops = await this.crops.nine(path, feature, card);
    if (turn !== this.#turn) return;
    const { words, style } = this.state;
    const told = crops.map(({ title, value }, n) => fill(words.crop, { rank: n + 1, title, value: digits(value) }));
    const titles = crops.map(({ title }) => title);
    drawNine(this.find('[data-nine="crops"]', HTMLElement), crops.map(({ square, field }) => canvasFrom(cut(square, field))), told, titles, style);
    const list = this.find('[data-nine="cropProjections"]', HTMLElement);
    if (!network) return drawNine(list, [], [], [], style);
    const projected = await Promise.all(crops.map(({ input: picture, position }, n) => network.project(
      { layer: path, picture, channel: feature, position, rule: network.manifest.rules.indexOf("deconvnet") }, { lane: `${this.lane} crop ${n}` },
    )));
    if (turn !== this.#turn) return;
    drawNine(list, projected.map((projection, n) => projection && canvasFrom(cut(stretch(projection, card.input_size), crops[n].field)) || undefined), told, titles, style);
  }

  #drawControls() {
    const { path, feature } = this.choice;
    this.find('[data-choice="layer"]', HTMLSelectElement).value = path;
    const input = this.find('[data-choice="feature"]', HTMLInputElement);
    input.max = `${this.#features().at(-1)}`;
    if (document.activeElement !== input) input.value = `${feature}`;
  }

  /** @override @param {boolean} keep */
  looked(keep) {
    if (keep) return this.#show(); // with the projections that it takes the network to make
    return this.#choose({ feature: this.#strongestShown()[0][0] });
  }

  /** The features of the gallery by their strongest units on the photograph: [feature, value]. */
  #strongestShown() {
    const { path } = this.choice;
    return this.strongest(path).filter(([feature]) => this.gallery.has(path, feature));
  }

  /** What answers most to the chosen photograph. */
  #drawStrongest() {
    const { path } = this.choice;
    const strongest = this.#strongestShown();
    const layer = this.layerName(path);
    this.find(".zf-layer > span", HTMLElement).textContent = layer;
    this.cells().forEach((cell, n) => {
      cell.hidden = n >= strongest.length;
      if (cell.hidden) return;
      const [feature, value] = strongest[n];
      const { map, width } = this.map(path, feature);
      Object.assign(cell.dataset, { path, feature: `${feature}` });
      this.paint(cell, colourMap(map, width, this.colours), fill(this.state.words.cell, { layer, feature, value: digits(value) }));
    });
  }

  // -------------------------------------------------------------------------- the reader's hands
  /** @override @param {HTMLInputElement | HTMLSelectElement} control */
  changed({ dataset: { choice }, value }) {
    void this.attempt(() => this.#choose(choice === "layer" ? { path: value } : { feature: Math.round(Number(value)) }));
  }

  /** @override @param {HTMLElement} button @param {[number, number]} step */
  arrow(button, step) {
    if (!button.classList.contains("zf-cell")) return false;
    const cells = this.cells().filter((cell) => cell.offsetParent);
    const cell = cells[clamp(cells.indexOf(button) + step[0] + step[1], 0, cells.length - 1)];
    cell.focus();
    cell.click();
    return true;
  }

  /** @override The nine projections, and the patches where they are. */
  async sheet() {
    const { path, feature } = this.choice;
    const { projections, patches } = await this.gallery.nine(path, feature);
    const rows = [projections, patches].filter((row) => row.length).map((row) => contactSheet(row.map((source) => ({ source })), this.state.style, 160, 8));
    const { canvas, context } = canvasOf(rows[0].width, rows.length * 168 - 8);
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    rows.forEach((row, n) => context.drawImage(row, 0, 168 * n));
    return { canvas, name: `${this.layerName(path)} feature ${feature} nine strongest` };
  }

  /** @override */
  python() {
    return { layer: this.layerName(this.choice.path), feature: this.choice.feature };
  }
}

Explorer.begin("feature", FeatureExplorer);
