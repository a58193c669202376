// @ts-check
/* The invariance explorer: shift, enlarge and turn the photograph, and see how far its features move. */

/** @typedef {{shift: number, scale: number, rotation: number, target: number}} Move as in `Viewer.move` */
/** @typedef {State & {paths: [string, string], deepest: string, farthest: number, start: Move}} InvarianceState */

/** @extends {Explorer<InvarianceState>} */
class InvarianceExplorer extends Explorer {
  /** @param {HTMLElement} root */
  constructor(root) {
    super(root);
    const { shift, scale, rotation, target } = this.state.start;
    /** @type {Move} */
    this.move = { shift, scale, rotation, target };
    this.acts.back = () => this.#ask({ shift: 0, scale: 1, rotation: 0 });
  }

  /** @override @param {Network} network */
  outputs(network) {
    if (!network.manifest.layers.some(({ name }) => name === "logits")) throw new Error(this.state.words.unjudged);
    return [...new Set([...this.state.paths, "logits"])];
  }

  /** @override @param {boolean} keep */
  looked(keep) {
    this.drawPhotograph();
    return this.#ask(keep ? {} : { target: this.target(softmax(this.sight().values.logits.data)) });
  }

  /** Move the photograph, and ask the network. @param {Partial<Move>} change @returns {Promise<void>} */
  async #ask(change) {
    const move = (this.move = { ...this.move, ...change });
    if (!this.seen) return this.onceSeen(() => this.#ask(change)); // again: the photograph brings a class of its own
    const { seen } = this;
    const { shift, scale, rotation } = move;
    const network = /** @type {Network} */ (this.network);
    const { input_size: side } = network.manifest;
    this.busy(true);
    this.#drawControls();
    let moved = seen.input;
    if (rotation) moved = warp(moved, side, "rotate", rotation);
    if (scale !== 1) moved = warp(moved, side, "scale", scale);
    if (shift) moved = warp(moved, side, "translate", shift);
    this.paint(this.panel("moved"), fromInput(moved, side, network.mean, network.card), this.state.words.movedPicture);
    const values = await network.forward({ pictures: moved, outputs: this.outputs(network) }, { lane: `${this.lane} move` });
    if (!values || seen !== this.seen) return undefined; // overtaken
    this.#drawAnswer(values, move);
    if (move === this.move) this.busy(false);
    return undefined;
  }

  #drawControls() {
    for (const name of /** @type {const} */ (["shift", "scale", "rotation"])) {
      const input = this.find(`[data-choice="${name}"]`, HTMLInputElement);
      input.value = `${this.move[name]}`;
      const output = find(/** @type {HTMLElement} */ (input.parentElement), "output", HTMLOutputElement);
      output.textContent = `${this.move[name]} ${{ shift: "px", scale: "times", rotation: "°" }[name]}`;
    }
    this.find('[data-choice="target"]', HTMLSelectElement).value = `${this.move.target}`;
  }

  /** @param {Values} values @param {Move} move which they are the answer to */
  #drawAnswer(values, { shift, scale, rotation, target }) {
    const { photograph, values: original } = this.sight();
    const { farthest, paths, deepest, words } = this.state;
    const [near, far] = paths.map((path) => distance(original[path].data, values[path].data));
    const [before, after] = [original, values].map(({ logits }) => softmax(logits.data));
    const given = {
      title: photograph.title, shift, scale, rotation, first: this.layerName(paths[0]), deepest,
      near: Math.round(100 * near), far: Math.round(100 * far), target: this.label(target),
      probability: percent(after[target]), whole: percent(before[target]), best: this.label(mostProbable(after)),
    };
    this.drawMeter("near", near, 0, farthest, fill(words.ofFirst, given));
    this.drawMeter("far", far, 0, farthest, fill(words.ofDeepest, given));
    this.drawMeter("probability", after[target], before[target], 1, fill(words.ofTarget, given));
    this.drawGuesses(after);
    this.find(".zf-says", HTMLElement).textContent = fill(words.moved, given);
    this.tell("");
  }

  /** @override @param {HTMLInputElement | HTMLSelectElement} control */
  changed({ dataset: { choice }, value }) {
    void this.attempt(() => this.#ask({ [choice ?? ""]: Number(value) }));
  }

  /** @override The photograph, and what became of it. */
  async sheet() {
    if (!(await this.looking())) return undefined;
    const { shift, scale, rotation } = this.move;
    const sources = [this.sight().view, find(this.panel("moved"), "img", HTMLImageElement).src];
    const cells = await Promise.all(sources.map(async (source) => ({ source: await imageOf(source) })));
    return { canvas: contactSheet(cells, this.state.style), name: `${this.shown} shifted ${shift} scaled ${scale} turned ${rotation}` };
  }

  /** @override */
  python() {
    const { shift, scale, rotation } = this.move;
    return { shift, scale, rotation, first: this.state.paths[0], deepest: this.state.paths[1] };
  }
}

Explorer.begin("invariance", InvarianceExplorer);
