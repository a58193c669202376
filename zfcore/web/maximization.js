// @ts-check
/*
 * The maximisation explorer: from noise, or from a photograph, to the picture that a feature or a class answers to
 * most, one step after the other before the reader's eyes. The steps are those of `zfcore.maximization`.
 */

/** @typedef {{down: number, right: number, scale: number, rotation: number}} Shake as `zfcore.maximization.Move` */
/** @typedef {{step: number, epsilon: number, contrast: number, l2: number, tv: number, jitter: number, scale: number,
 *             rotation: number, frequency: number, delta: number}} Recipe as `zfcore.maximization.Recipe` */
/** @typedef {{path: string, before: string, channel: number, position: string}} Target `before` is the layer that a
 *             ReLU rectifies; `position` is "map" or "middle" */
/** @typedef {"l2" | "tv" | "jitter" | "turn" | "frequency"} Switch */
/** @typedef {State & {start: {photograph: string, path: string, feature: number, target: number, position: string, seed: number, pixels: string | null, steps: number},
 *             recipe: Recipe, befores: Record<string, string>, result: string | null, most: number}} MaximizationState
 *             `start.pixels` is the Python of the photograph that Lab's ascent began at, if it did;
 *             `result` is Python's name of the layer that the page calls logits, if it offers classes */

const STILL = { down: 0, right: 0, scale: 1, rotation: 0 };

/** Divide every frequency by its power: the discrete Fourier transform, there and back, along rows and columns.
 *  @param {Float32Array} picture (3, S, S) @param {number} side S @param {number} power */
function natural(picture, side, power) {
  const half = Math.floor(side / 2) + 1; // the others are the mirror image of these
  const cosine = Float64Array.from({ length: side }, (_, n) => Math.cos((2 * Math.PI * n) / side));
  const sine = Float64Array.from({ length: side }, (_, n) => Math.sin((2 * Math.PI * n) / side));
  const coloured = new Float32Array(picture.length);
  const [real, imaginary, a, b] = Array.from({ length: 4 }, () => new Float64Array(side * half));
  /** @param {Float64Array} fromReal @param {Float64Array} fromImaginary @param {Float64Array} toReal @param {Float64Array} toImaginary @param {number} sign */
  const columns = (fromReal, fromImaginary, toReal, toImaginary, sign) => {
    for (let v = 0; v < side; v++) {
      for (let u = 0; u < half; u++) {
        let [re, im] = [0, 0];
        for (let y = 0; y < side; y++) {
          const [c, s] = [cosine[(v * y) % side], sign * sine[(v * y) % side]];
          re += fromReal[y * half + u] * c - fromImaginary[y * half + u] * s;
          im += fromReal[y * half + u] * s + fromImaginary[y * half + u] * c;
        }
        [toReal[v * half + u], toImaginary[v * half + u]] = [re, im];
      }
    }
  };
  for (let plane = 0; plane < picture.length; plane += side * side) {
    for (let y = 0; y < side; y++) {
      for (let u = 0; u < half; u++) {
        let [re, im] = [0, 0];
        for (let x = 0; x < side; x++) {
          re += picture[plane + y * side + x] * cosine[(u * x) % side];
          im -= picture[plane + y * side + x] * sine[(u * x) % side];
        }
        [real[y * half + u], imaginary[y * half + u]] = [re, im];
      }
    }
    columns(real, imaginary, a, b, -1);
    for (let v = 0; v < side; v++) {
      for (let u = 0; u < half; u++) {
        const f = Math.max(Math.hypot(Math.min(v, side - v), u), 1) / side;
        a[v * half + u] *= f ** -power;
        b[v * half + u] *= f ** -power;
      }
    }
    columns(a, b, real, imaginary, 1);
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        let sum = 0;
        for (let u = 0; u < half; u++) {
          const twice = u === 0 || 2 * u === side ? 1 : 2;
          sum += twice * (real[y * half + u] * cosine[(u * x) % side] - imaginary[y * half + u] * sine[(u * x) % side]);
        }
        coloured[plane + y * side + x] = sum / (side * side);
      }
    }
  }
  return coloured;
}

/** Shift a picture around its edges, then turn and scale it about its centre; or bring a gradient `back` the same way.
 *  @param {Float32Array} picture (3, S, S) @param {number} side S @param {Shake} move @param {boolean} [back] */
function carry(picture, side, { down, right, scale, rotation }, back = false) {
  const cells = side * side;
  const turn = (rotation * Math.PI) / 180;
  const [cosine, sine] = [Math.cos(turn) / scale, Math.sin(turn) / scale];
  const centre = (side - 1) / 2;
  const around = (/** @type {number} */ at) => ((at % side) + side) % side;
  const carried = new Float32Array(picture.length);
  for (let n = 0; n < cells; n++) {
    const [y, x] = [Math.floor(n / side) - centre, (n % side) - centre];
    // Beside the grid by less than a float32 would tell, it is on it.
    const [from, across] = [cosine * y + sine * x + centre, cosine * x - sine * y + centre].map((at) => (Math.abs(at - Math.round(at)) < 1e-9 ? Math.round(at) : at));
    const [top, left] = [Math.floor(from), Math.floor(across)];
    for (const [row, column] of [[top, left], [top, left + 1], [top + 1, left], [top + 1, left + 1]]) {
      const weight = (1 - Math.abs(from - row)) * (1 - Math.abs(across - column));
      if (row < 0 || column < 0 || row >= side || column >= side || weight === 0) continue;
      const source = around(row - down) * side + around(column - right);
      for (let plane = 0; plane < picture.length; plane += cells) {
        if (back) carried[plane + source] += weight * picture[plane + n];
        else carried[plane + n] += weight * picture[plane + source];
      }
    }
  }
  return carried;
}

/** The gradient of the total variation. @param {Float32Array} picture (3, S, S) @param {number} side S @param {number} delta */
function variationGradient(picture, side, delta) {
  const gradient = new Float32Array(picture.length);
  for (let n = 0; n < picture.length; n++) {
    const [y, x] = [Math.floor(n / side) % side, n % side];
    const down = y < side - 1 ? picture[n + side] - picture[n] : 0;
    const right = x < side - 1 ? picture[n + 1] - picture[n] : 0;
    const length = Math.hypot(down, right, delta);
    gradient[n] -= (down + right) / length;
    if (y < side - 1) gradient[n + side] += down / length;
    if (x < side - 1) gradient[n + 1] += right / length;
  }
  return gradient;
}

/** One step of an ascent: the picture after it, and what it answered before it.
 *  @param {Network} network @param {Float32Array} picture (3, S, S) @param {Target} target @param {Recipe} recipe @param {Shake} move
 *  @param {string} [lane] @returns {Promise<{picture: Float32Array, value: number} | null>} */
async function climbStep(network, picture, { path, before, channel, position }, recipe, move, lane = "") {
  const { input_size: side } = network.manifest;
  const shown = carry(picture, side, move);
  const values = await network.forward({ pictures: shown, outputs: [path] }, { lane });
  if (!values) return null;
  const { dims: [, , high, wide], data } = values[path];
  const cells = high ? high * wide : 1;
  const [y, x] = [high >> 1, wide >> 1];
  const whole = position === "map" || !high;
  const map = data.subarray(channel * cells, (channel + 1) * cells);
  const value = whole ? map.reduce((a, b) => a + b, 0) / cells : map[y * wide + x];
  const layer = value > 0 ? path : before; // a silent ReLU has no gradient: what it rectifies has
  const place = /** @type {[number, number]} */ (whole ? [-1, -1] : [y, x]);
  const rule = network.manifest.rules.indexOf("gradient");
  const found = await network.project({ layer, picture: shown, channel, position: place, rule }, { lane });
  if (!found) return null;
  let gradient = carry(found, side, move, true);
  if (recipe.frequency) gradient = natural(gradient, side, recipe.frequency);
  const mean = whole ? 1 / cells : 1; // the graph's gradient is that of the sum
  const rms = Math.sqrt(gradient.reduce((sum, g) => sum + (mean * g) ** 2, 0) / gradient.length) + recipe.epsilon;
  const held = recipe.tv ? variationGradient(picture, side, recipe.delta) : gradient;
  return { value, picture: picture.map((at, n) => at + recipe.step * ((mean * gradient[n]) / rms - recipe.l2 * at - recipe.tv * held[n])) };
}

/** Noise to start from. @param {() => number} random @param {number} side @param {Recipe} recipe */
function noisePicture(random, side, { contrast, frequency }) {
  const white = Float32Array.from({ length: 3 * side * side }, () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()));
  const noise = frequency ? natural(white, side, frequency) : white;
  const size = Math.sqrt(noise.reduce((sum, at) => sum + at * at, 0) / noise.length);
  return noise.map((at) => (contrast * at) / size);
}

/** @extends {Explorer<MaximizationState>} */
class MaximizationExplorer extends Explorer {
  /** @type {Float32Array | undefined} */
  #picture;
  /** @type {string | null} */
  #pixels; // the Python of the photograph that it started from, or null: it was noise
  /** @type {number[]} what it answered before each step */
  #history = [];
  #turn = 0; // of ascents: a later one, or none, overtakes an earlier one
  #random = () => 0;

  /** @param {HTMLElement} root */
  constructor(root) {
    super(root);
    const { path, feature, target, position, seed, pixels } = this.state.start;
    this.choice = { path, feature, target, position };
    /** @type {Record<Switch, boolean>} */
    this.on = { l2: true, tv: true, jitter: true, turn: true, frequency: true };
    this.seed = seed;
    this.#pixels = pixels;
    Object.assign(this.acts, {
      load: () => this.#climb(),
      climb: () => (this.#climbing() ? this.#pause() : this.#climb()),
      noise: () => this.#anew(this.seed + 1),
      begin: () => this.look(this.shown),
    });
  }

  /** @override @param {Network} _network */
  outputs(_network) {
    return [this.state.layers[0].path];
  }

  /** @override A photograph was chosen: the ascent starts there. @param {boolean} keep */
  looked(keep) {
    if (keep) {
      this.find(".zf-credit", HTMLElement).textContent = ""; // nothing of the photograph is shown yet
      return this.busy(false);
    }
    const { input, photograph } = this.sight();
    this.#from(/** @type {Network} */ (this.network), input, photograph.python);
    return this.#climb();
  }

  // -------------------------------------------------------------------------- the ascent
  #climbing() {
    return this.root.dataset.climbing !== undefined;
  }

  /** What the reader's switches leave of the recipe. @returns {Recipe} */
  #recipe() {
    const { recipe } = this.state;
    const { l2, tv, jitter, turn, frequency } = this.on;
    return {
      ...recipe, l2: l2 ? recipe.l2 : 0, tv: tv ? recipe.tv : 0, jitter: jitter ? recipe.jitter : 0, scale: turn ? recipe.scale : 1,
      rotation: turn ? recipe.rotation : 0, frequency: frequency ? recipe.frequency : 0,
    };
  }

  /** By chance, as far as the recipe lets it. @returns {Shake} */
  #move() {
    const { jitter, scale, rotation } = this.#recipe();
    const [a, b, c, d] = Array.from({ length: 4 }, () => 2 * this.#random() - 1);
    const [down, right] = [a, b].map((at) => clamp(Math.round((jitter + 0.5) * at), -jitter, jitter));
    return jitter || scale > 1 || rotation ? { down, right, scale: scale ** c, rotation: rotation * d } : STILL;
  }

  /** Start an ascent, of which nothing can be told yet.
   *  @param {Network} network @param {Float32Array} picture @param {string | null} pixels */
  #from(network, picture, pixels = null) {
    this.#stop();
    this.#pixels = pixels;
    this.#random = uniform(this.seed);
    this.#picture = picture;
    this.#paint("start", picture, network);
    this.#history = [];
    this.find(".zf-says", HTMLElement).textContent = "";
    this.#draw(network);
  }

  /** Start from other noise. @param {number} seed @returns {Promise<void>} */
  async #anew(seed) {
    this.seed = seed;
    const network = await this.live();
    this.find(".zf-credit", HTMLElement).textContent = "";
    const random = uniform(1000 + seed);
    this.#from(network, noisePicture(random, network.manifest.input_size, this.#recipe()));
    return this.#climb();
  }

  #stop() {
    this.#turn++;
    delete this.root.dataset.climbing;
    this.find('[data-do="climb"]', HTMLElement).textContent = this.state.words.climb;
  }

  #pause() {
    this.#stop();
    if (this.#history.length) this.find(".zf-says", HTMLElement).textContent = fill(this.state.words.climbed, this.#given());
  }

  /** @returns {Promise<void>} */
  async #climb() {
    const network = await this.live();
    if (!this.#picture) return this.#anew(this.seed);
    const turn = ++this.#turn;
    this.tell("");
    this.root.dataset.climbing = "";
    this.find('[data-do="climb"]', HTMLElement).textContent = this.state.words.pause;
    try {
      for (let steps = 0; steps < this.state.most; steps++) {
        const { path, feature, target, position } = this.choice;
        const channel = path === "logits" ? target : feature;
        const goal = { path, before: this.state.befores[path] ?? path, channel, position };
        const found = await climbStep(network, this.#picture, goal, this.#recipe(), this.#move(), `${this.lane} climb`);
        if (turn !== this.#turn) return undefined; // paused, or overtaken
        if (!found) continue; // the last step of an overtaken ascent has pushed this one out
        this.#picture = found.picture;
        this.#history.push(found.value);
        this.#draw(network);
      }
    } finally {
      if (turn === this.#turn) this.#pause();
    }
    return undefined;
  }

  // -------------------------------------------------------------------------- showing
  #given() {
    const { path, feature, target, position } = this.choice;
    const { words } = this.state;
    const goal = path === "logits" ? fill(words.ofLogit, { label: this.label(target) }) : fill(position === "map" ? words.ofWholeMap : words.ofUnit, { layer: this.layerName(path), feature });
    const told = (/** @type {number | undefined} */ value) => (value === undefined ? "" : digits(value));
    return { goal, first: told(this.#history[0]), value: told(this.#history.at(-1)), steps: this.#history.length };
  }

  /** @param {"start" | "climbed"} name @param {Float32Array} picture @param {Network} network */
  #paint(name, picture, { manifest: { input_size: side }, mean, card }) {
    this.paint(this.panel(name), fromInput(picture, side, mean, card), this.state.words[`${name}Picture`]);
  }

  /** @param {Network} network */
  #draw(network) {
    const { words } = this.state;
    if (this.#picture) this.#paint("climbed", this.#picture, network);
    const [low, high] = [Math.min(0, ...this.#history), Math.max(0, ...this.#history)];
    const last = Math.max(1, this.#history.length - 1);
    const points = this.#history.map((value, n) => `${((100 * n) / last).toFixed(2)},${(40 - (40 * (value - low)) / (high - low || 1)).toFixed(2)}`);
    this.find(".zf-curve polyline", SVGElement).setAttribute("points", points.join(" "));
    this.find(".zf-answer", HTMLElement).textContent = this.#history.length ? fill(words.answer, this.#given()) : "";
    this.busy(false);
  }

  #drawControls() {
    const { path, feature, target, position } = this.choice;
    const classes = path === "logits";
    for (const [name, value, hidden] of /** @type {[string, string | number, boolean][]} */ ([
      ["layer", path, false], ["feature", feature, classes], ["target", target, !classes], ["position", position, classes],
    ])) {
      const control = this.root.querySelector(`[data-choice="${name}"]`);
      if (!(control instanceof HTMLInputElement || control instanceof HTMLSelectElement)) continue; // a network without classes
      if (document.activeElement !== control) control.value = `${value}`;
      control.parentElement?.toggleAttribute("hidden", hidden);
    }
    const { manifest } = /** @type {Network} */ (this.network);
    const known = manifest.layers.find(({ name }) => name === path);
    if (known && !classes) this.find('[data-choice="feature"]', HTMLInputElement).max = `${known.shape[0] - 1}`;
  }

  // -------------------------------------------------------------------------- the reader's hands
  /** @override A regulariser takes part from the next step on; another goal starts from noise again.
   *  @param {HTMLInputElement | HTMLSelectElement} control */
  changed(control) {
    const { dataset: { choice }, value } = control;
    if (choice && choice in this.on) {
      this.on[/** @type {Switch} */ (choice)] = control instanceof HTMLInputElement && control.checked;
      return;
    }
    void this.attempt(async () => {
      const network = await this.live();
      if (choice === "layer" || choice === "position") this.choice[choice === "layer" ? "path" : "position"] = value;
      else this.choice[choice === "target" ? "target" : "feature"] = Math.round(Number(value));
      const known = network.manifest.layers.find(({ name }) => name === this.choice.path);
      if (known && this.choice.path !== "logits") this.choice.feature = clamp(this.choice.feature, 0, known.shape[0] - 1);
      this.#drawControls();
      await this.#anew(this.seed);
    });
  }

  /** @override Where it started, and where it is. */
  async sheet() {
    const sources = ["start", "climbed"].map((name) => find(this.panel(name), "img", HTMLImageElement).src);
    const cells = await Promise.all(sources.map(async (source) => ({ source: await imageOf(source) })));
    return { canvas: contactSheet(cells, this.state.style), name: `${this.#given().goal} maximised` };
  }

  /** @override */
  python() {
    const { path, feature, target, position } = this.choice;
    const { l2, tv, jitter, scale, rotation, frequency } = this.#recipe();
    const channel = path === "logits" ? target : feature;
    const start = this.#pixels === null ? "None" : fill(this.state.words.python_photograph, { pixels: this.#pixels });
    const steps = Math.max(1, this.#picture ? this.#history.length : this.state.start.steps);
    return { path: path === "logits" ? this.state.result : path, channel, position, start, steps, seed: this.seed, l2, tv, jitter, scale, rotation, frequency };
  }
}

// The tests take a step as the explorer does.
Object.assign(store(), { climbStep, noisePicture });

Explorer.begin("maximization", MaximizationExplorer);
