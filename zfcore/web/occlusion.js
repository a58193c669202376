// @ts-check
/*
 * The occlusion explorer (§4.2): drag a square over the photograph, and the network's answers follow; or let it
 * visit every place, coarsely first, and go back to any of them.
 */

/** @typedef {{top: number, left: number, size: number, fill: string, target: number}} Square top and left in pixels of
 *             the network's picture; `target` is the class whose probability is wanted */
/** @typedef {State & {path: string, stride: number, palette: string[], start: Square}} OcclusionState */
/** @typedef {{probabilities: Float64Array, sum: number}} Answer to one picture: of every class, and the sum of the map */

const TOGETHER = 8; // places that the network scans at a time: in between it answers the reader's hand

/** @extends {Explorer<OcclusionState>} */
class OcclusionExplorer extends Explorer {
  /** @type {Answer} */
  #whole = { probabilities: new Float64Array(), sum: 0 };
  #channel = 0; // the map of the layer that is strongest on the whole picture
  /** @type {(Answer | undefined)[]} */
  #scanned = []; // by place of the scan's grid, row by row
  #turn = 0; // of scans: a later one, or none, overtakes an earlier one
  #moves = 0; // of the square: what answers to an earlier place is not shown at a later one
  /** @type {{kind: string, input: Float32Array, picture: Float32Array}} */
  #fill = { kind: "", input: new Float32Array(), picture: new Float32Array() };

  /** @param {HTMLElement} root */
  constructor(root) {
    super(root);
    const { top, left, size, fill, target } = this.state.start;
    /** @type {Square} */
    this.square = { top, left, size, fill, target };
    Object.assign(this.acts, {
      scan: () => (this.#scanning() ? this.#stop() : this.#scan()),
      place: async (/** @type {HTMLElement} */ stage, /** @type {MouseEvent} */ event) => {
        const at = this.place(stage, event, 1, 1);
        if (event.detail && (await this.looking())) this.#goTo(at);
      },
    });
  }

  /** @override */
  wire() {
    super.wire();
    const stage = this.find('[data-do="square"]', HTMLElement);
    const follow = (/** @type {PointerEvent} */ event) => {
      if (!stage.hasPointerCapture(event.pointerId) || !this.network) return;
      const { input_size: side } = this.network.manifest;
      const [y, x] = this.place(stage, event, side, side);
      this.#move({ top: Math.round(y - this.square.size / 2), left: Math.round(x - this.square.size / 2) });
    };
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      if (this.seen) follow(event);
      else void this.looking();
    });
    stage.addEventListener("pointermove", follow);
    for (const map of this.root.querySelectorAll('[data-do="place"]')) {
      map.addEventListener("pointermove", (event) => {
        if (this.seen && map instanceof HTMLElement && event instanceof PointerEvent && event.pointerType === "mouse") this.#goTo(this.place(map, event, 1, 1));
      });
    }
  }

  /** @override @param {Network} network */
  outputs(network) {
    if (!network.manifest.layers.some(({ name }) => name === "logits")) throw new Error(this.state.words.unjudged);
    return [this.state.path, "logits"];
  }

  /** @override @param {boolean} keep */
  looked(keep) {
    const { values } = this.sight();
    const { dims: [, maps, height, width], data } = values[this.state.path];
    const sums = Array.from({ length: maps }, (_, n) => data.subarray(n * height * width, (n + 1) * height * width).reduce((a, b) => a + b, 0));
    this.#channel = sums.indexOf(Math.max(...sums));
    this.#whole = { probabilities: softmax(values.logits.data), sum: sums[this.#channel] };
    this.drawPhotograph();
    if (!keep) this.square.target = this.target(this.#whole.probabilities);
    if (!keep) this.#forget(); // else the page came with maps of this photograph and this square
    this.#move({});
  }

  // -------------------------------------------------------------------------- the square
  /** @returns {{side: number, rows: number}} pixels of the picture, places of the scan along each side */
  #grid() {
    const side = /** @type {Network} */ (this.network).manifest.input_size;
    return { side, rows: Math.floor((side - this.square.size) / this.state.stride) + 1 };
  }

  /** What stands in the square, (3, S, S). */
  #filling() {
    const { fill: kind, size } = this.square;
    const { input } = this.sight();
    const network = /** @type {Network} */ (this.network);
    const { side } = this.#grid();
    const wanted = `${kind} ${kind === "blur" ? size : ""}`;
    if (this.#fill.kind !== wanted || this.#fill.input !== input) {
      this.#fill = { kind: wanted, input, picture: fillPicture(kind, input, side, size, network.mean, network.card) };
      find(this.panel("photograph"), "img.zf-cover", HTMLImageElement).src = canvasFrom(fromInput(this.#fill.picture, side, network.mean, network.card)).toDataURL();
    }
    return this.#fill.picture;
  }

  /** Move or change the square, and ask the network. @param {Partial<Square>} change */
  #move(change) {
    const turn = ++this.#moves;
    Object.assign(this.square, change);
    if (!this.seen) return void this.onceSeen(() => this.#move(change)); // again: the photograph brings a class of its own
    const { side, rows } = this.#grid();
    const { size } = this.square;
    this.square.top = clamp(this.square.top, 0, side - size);
    this.square.left = clamp(this.square.left, 0, side - size);
    const { top, left } = this.square;
    this.#filling();
    this.#drawControls();
    this.#drawSquare();
    const { stride } = this.state;
    const known = top % stride === 0 && left % stride === 0 ? this.#scanned[(top / stride) * rows + left / stride] : undefined;
    if (known) {
      this.#drawAnswer(known);
      return this.busy(false);
    }
    this.busy(true);
    return void this.attempt(async () => {
      const [answer] = (await this.#ask([[top, left]], `${this.lane} square`)) ?? [];
      if (!answer || turn !== this.#moves) return; // overtaken
      this.#drawAnswer(answer);
      this.busy(false);
    });
  }

  /** The network's answers with the square at some places. @param {[number, number][]} corners @param {string} [lane]
   *  @returns {Promise<Answer[] | null>} */
  async #ask(corners, lane = "") {
    const { size } = this.square;
    const network = /** @type {Network} */ (this.network);
    const found = await network.occlude(
      { picture: this.sight().input, size: [size, size], corners, fill: this.#filling(), layer: this.state.path, channel: this.#channel, batch: TOGETHER },
      { lane },
    );
    if (!found) return null;
    const classes = found.logits.length / corners.length;
    return corners.map((_, n) => ({ probabilities: softmax(found.logits.subarray(n * classes, (n + 1) * classes)), sum: found.sums[n] }));
  }

  // -------------------------------------------------------------------------- the scan
  #scanning() {
    return this.root.dataset.scanning !== undefined;
  }

  #stop() {
    this.#turn++;
    delete this.root.dataset.scanning;
    this.find('[data-do="scan"]', HTMLElement).textContent = this.state.words.scan;
  }

  /** The maps do not belong to this picture or square. */
  #forget() {
    this.#stop();
    this.#scanned = [];
    this.find(".zf-maps", HTMLElement).hidden = true;
  }

  async #scan() {
    if (!(await this.looking())) return;
    const turn = ++this.#turn;
    const { rows } = this.#grid();
    const { stride } = this.state;
    this.root.dataset.scanning = "";
    this.find('[data-do="scan"]', HTMLElement).textContent = this.state.words.stop;
    this.#scanned = new Array(rows * rows);
    try {
      for (const cells of finer(rows, rows)) {
        for (let first = 0; first < cells.length; first += TOGETHER) {
          const some = cells.slice(first, first + TOGETHER);
          const answers = await this.#ask(some.map(([row, column]) => [row * stride, column * stride]));
          if (turn !== this.#turn || !answers) return;
          some.forEach(([row, column], n) => (this.#scanned[row * rows + column] = answers[n]));
          this.#drawMaps();
        }
      }
    } finally {
      if (turn === this.#turn) this.#stop();
    }
    this.#drawMaps();
    this.tell(fill(this.state.words.scanned, { places: rows * rows }));
  }

  /** Put the square where a pointer is on a map. @param {[number, number]} place down and across, of the map's side */
  #goTo(place) {
    const { rows } = this.#grid();
    const [row, column] = place.map((at) => clamp(Math.floor(at * rows), 0, rows - 1) * this.state.stride);
    if (row !== this.square.top || column !== this.square.left) this.#move({ top: row, left: column });
  }

  // -------------------------------------------------------------------------- showing
  #drawControls() {
    const { target, size, fill: kind } = this.square;
    const classes = this.find('[data-choice="target"]', HTMLSelectElement);
    classes.value = `${target}`;
    this.find('[data-choice="size"]', HTMLInputElement).value = `${size}`;
    this.find('[data-choice="fill"]', HTMLSelectElement).value = kind;
  }

  #drawSquare() {
    const { top, left, size } = this.square;
    const { side } = this.#grid();
    const [above, before, below, after] = [top, left, side - top - size, side - left - size].map((edge) => `${(100 * edge) / side}%`);
    this.mark("photograph", side, { top, left, bottom: top + size, right: left + size });
    find(this.panel("photograph"), "img.zf-cover", HTMLElement).style.clipPath = `inset(${above} ${after} ${below} ${before})`;
    this.find("output", HTMLOutputElement).textContent = `${size} px`;
    this.#drawPlace();
  }

  /** Mark the square's place on the maps, where they have it. */
  #drawPlace() {
    const { top, left } = this.square;
    const { stride } = this.state;
    const { rows } = this.#grid();
    const [row, column] = [Math.round(top / stride), Math.round(left / stride)];
    for (const name of ["probability", "activation", "label"]) this.mark(name, rows, { top: row, left: column, bottom: row + 1, right: column + 1 }, row < rows && column < rows);
  }

  /** @param {Answer} answer */
  #drawAnswer({ probabilities, sum }) {
    const { top, left, size, target } = this.square;
    const { photograph } = this.sight();
    const words = {
      title: photograph.title, size, row: top, column: left, target: this.label(target),
      probability: percent(probabilities[target]), whole: percent(this.#whole.probabilities[target]),
      best: this.label(mostProbable(probabilities)), layer: this.layerName(this.state.path), feature: this.#channel,
      share: this.#whole.sum > 0 ? Math.round((100 * sum) / this.#whole.sum) : 100,
    };
    this.drawGuesses(probabilities);
    this.drawMeter("probability", probabilities[target], this.#whole.probabilities[target], 1, fill(this.state.words.ofClass, words));
    this.drawMeter("activation", sum, this.#whole.sum, Math.max(1.25 * this.#whole.sum, sum) || 1, fill(this.state.words.ofMap, words));
    this.find(".zf-says", HTMLElement).textContent = fill(this.state.words.covered, words);
    if (!this.#scanning()) this.tell("");
  }

  #drawMaps() {
    const { rows } = this.#grid();
    const { words, palette } = this.state;
    const { target } = this.square;
    this.find(".zf-maps", HTMLElement).hidden = false;
    const map = (/** @type {(answer: Answer) => number} */ of) => asKnown(Float64Array.from({ length: rows * rows }, (_, n) => {
      const answer = this.#scanned[n];
      return answer ? of(answer) : NaN;
    }), rows);
    const given = { target: this.label(target), layer: this.layerName(this.state.path), feature: this.#channel };
    for (const [name, values, template] of /** @type {[string, Float64Array, string][]} */ ([
      ["probability", map((answer) => answer.probabilities[target]), words.probabilityMap],
      ["activation", map((answer) => answer.sum), words.activationMap],
    ])) {
      const most = values.reduce((a, b) => Math.max(a, b || 0), 0);
      const caption = fill(template, { ...given, most: name === "probability" ? percent(most) : digits(most) });
      this.paint(this.panel(name), colourMap(Float32Array.from(values, (value) => value || 0), rows, this.colours), caption);
      find(this.panel(name), "figcaption span", HTMLElement).textContent = caption;
    }
    const labels = map((answer) => mostProbable(answer.probabilities));
    const known = labels.filter((label) => !Number.isNaN(label));
    const counted = new Map();
    for (const label of known) counted.set(label, (counted.get(label) ?? 0) + 1);
    const frequent = Array.from(counted.keys()).sort((a, b) => counted.get(b) - counted.get(a) || a - b).slice(0, palette.length);
    const pixels = new Uint8ClampedArray(3 * labels.length);
    labels.forEach((label, n) => pixels.set(rgb(palette[frequent.indexOf(label)] ?? "#808080"), 3 * n));
    this.paint(this.panel("label"), { width: rows, height: rows, pixels }, words.labelMap);
    this.find(".zf-legend", HTMLElement).replaceChildren(...frequent.map((label, n) => {
      const item = element("li", `${this.label(label)} ${percent(counted.get(label) / known.length)}`);
      const chip = element("i", "");
      chip.style.background = palette[n];
      item.prepend(chip);
      return item;
    }));
    this.#drawPlace();
  }

  // -------------------------------------------------------------------------- the reader's hands
  /** @override @param {HTMLInputElement | HTMLSelectElement} control */
  changed({ dataset: { choice }, value }) {
    if (choice === "target") {
      this.#move({ target: Number(value) });
      return this.#scanned.length ? this.#drawMaps() : this.#forget();
    }
    this.#forget();
    if (choice === "fill") return this.#move({ fill: value });
    const size = Math.round(Number(value));
    const shift = Math.round((this.square.size - size) / 2); // it grows around its centre
    this.#move({ size, top: this.square.top + shift, left: this.square.left + shift });
  }

  /** @override @param {HTMLElement} button @param {[number, number]} step */
  arrow(button, step) {
    if (button.dataset.do !== "square" && button.dataset.do !== "place") return false;
    const { stride } = this.state;
    const [top, left] = [this.square.top, this.square.left].map((at, axis) => (step[axis] ? (Math.round(at / stride) + step[axis]) * stride : at));
    this.#move({ top, left });
    return true;
  }

  /** @override The photograph with its square, and the maps. */
  async sheet() {
    if (!(await this.looking())) return undefined;
    const { view } = this.sight();
    const { top, left, size } = this.square;
    const { side } = this.#grid();
    const { canvas, context } = canvasOf(448, 448);
    context.drawImage(await imageOf(view), 0, 0, 448, 448);
    const cover = await imageOf(find(this.panel("photograph"), "img.zf-cover", HTMLImageElement).src);
    const edge = (448 * size) / side;
    context.imageSmoothingEnabled = false;
    context.drawImage(cover, left, top, size, size, (448 * left) / side, (448 * top) / side, edge, edge);
    /** @type {{source: CanvasImageSource & {width: number, height: number}, frame?: Field | undefined}[]} */
    const cells = [{ source: canvas, frame: { top: top / side, left: left / side, bottom: (top + size) / side, right: (left + size) / side } }];
    if (!this.find(".zf-maps", HTMLElement).hidden) {
      for (const name of ["probability", "activation", "label"]) cells.push({ source: await imageOf(find(this.panel(name), "img", HTMLImageElement).src) });
    }
    return { canvas: contactSheet(cells, this.state.style), name: `${this.shown} occluded at ${top} ${left} size ${size}` };
  }

  /** @override */
  python() {
    const { size, target, fill: kind } = this.square;
    return { path: this.state.path, size, stride: this.state.stride, target, fill: this.state.words[`python_${kind}`] };
  }
}

/** @param {string} colour as #rrggbb */
const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

Explorer.begin("occlusion", OcclusionExplorer);
