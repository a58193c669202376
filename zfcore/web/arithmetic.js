// @ts-check
/* What the page computes itself, beside the network: as in `zfcore.occlusion` and `zfcore.invariance`. */

/** Three digits, as Python's `.3g`. @param {number} value */
function digits(value) {
  const [mantissa, power] = value.toExponential(2).split("e").map(Number);
  if (!(power < -4 || power > 2)) return String(Number(value.toPrecision(3)));
  return `${mantissa}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

/** A share, as Python's `view.percent`. @param {number} share */
const percent = (share) => (share >= 0.005 ? `${Math.round(100 * share)} %` : "< 1 %");

/** @param {Float32Array} logits */
function softmax(logits) {
  const top = logits.reduce((a, b) => Math.max(a, b));
  const odds = Float64Array.from(logits, (value) => Math.exp(value - top));
  const sum = odds.reduce((a, b) => a + b, 0);
  return odds.map((value) => value / sum);
}

/** @param {Float64Array} probabilities of equals the first */
const mostProbable = (probabilities) => probabilities.indexOf(probabilities.reduce((a, b) => Math.max(a, b)));

/** @param {ArrayLike<number>} values the mean and the deviation (divided by n − 1) of these */
function moments(values) {
  let [sum, squares] = [0, 0];
  for (let n = 0; n < values.length; n++) sum += values[n];
  const mean = sum / values.length;
  for (let n = 0; n < values.length; n++) squares += (values[n] - mean) ** 2;
  return { mean, deviation: Math.sqrt(squares / (values.length - 1)) };
}

/** (n, n): each row averages a line of n pixels around one of them, weights cut off at the ends.
 *  @param {number} n @param {number} sigma */
function gaussian(n, sigma) {
  return Array.from({ length: n }, (_, centre) => softmax(Float32Array.from({ length: n }, (_, at) => ((at - centre) ** 2) / (-2 * sigma ** 2))));
}

/** What shows through a square, wherever it is: (3, S, S) in the network's units, as `zfcore.occlusion.fill_picture`
 *  makes it; noise of the same kind, from a generator of its own.
 *  @param {string} kind @param {Float32Array} input (3, S, S) @param {number} side S @param {number} size of the square
 *  @param {Float32Array} mean @param {Card} card */
function fillPicture(kind, input, side, size, mean, card) {
  const cells = side * side;
  if (kind === "grey") return new Float32Array(3 * cells);
  if (kind === "black" || kind === "white") return toInput(new Uint8ClampedArray(3 * cells).fill(kind === "white" ? 255 : 0), mean, card);
  const filled = new Float32Array(3 * cells);
  const weights = kind === "blur" ? gaussian(side, size / 2) : [];
  const random = uniform(1);
  for (let colour = 0; colour < 3; colour++) {
    const plane = input.subarray(colour * cells, (colour + 1) * cells);
    const out = filled.subarray(colour * cells, (colour + 1) * cells);
    if (kind === "noise") {
      const { mean: centre, deviation } = moments(plane);
      for (let n = 0; n < cells; n++) out[n] = centre + deviation * Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
      continue;
    }
    const across = new Float64Array(cells); // blurred along the rows, then along the columns
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) across[y * side + x] = weights[x].reduce((sum, weight, at) => sum + weight * plane[y * side + at], 0);
    }
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) out[y * side + x] = weights[y].reduce((sum, weight, at) => sum + weight * across[at * side + x], 0);
    }
  }
  return filled;
}

/** Numbers in [0, 1), the same for the same seed (mulberry32). @param {number} seed */
function uniform(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** What the network takes, as a picture for the eye. @param {Float32Array} input (3, S, S) @param {number} side
 *  @param {Float32Array} mean @param {Card} card @returns {Raster} */
function fromInput(input, side, mean, card) {
  const cells = side * side;
  const pixels = new Uint8ClampedArray(3 * cells);
  for (let n = 0; n < 3 * cells; n++) {
    const colour = Math.floor(n / cells);
    pixels[3 * (n % cells) + colour] = input[n] * (typeof card.scale === "number" ? card.scale : card.scale[colour]) + mean[n];
  }
  return { width: side, height: side, pixels };
}

/** Cells of a grid in the order of a scan that gets finer: [row, column] of every 4th, then of every 2nd, then of all.
 *  @param {number} rows @param {number} columns @returns {[number, number][][]} */
function finer(rows, columns) {
  return [4, 2, 1].map((step) => {
    /** @type {[number, number][]} */
    const cells = [];
    for (let row = 0; row < rows; row += step) {
      for (let column = 0; column < columns; column += step) {
        if (step === 4 || row % (2 * step) || column % (2 * step)) cells.push([row, column]);
      }
    }
    return cells;
  });
}

/** The values of a grid that are known so far; a cell that is not takes those of the coarser grid it belongs to.
 *  @param {Float64Array} values NaN where nothing is known @param {number} columns */
function asKnown(values, columns) {
  return values.map((_, n) => {
    const [row, column] = [Math.floor(n / columns), n % columns];
    return [1, 2, 4].map((step) => values[(row - (row % step)) * columns + column - (column % step)]).find((known) => !Number.isNaN(known)) ?? NaN;
  });
}

/** How many lobes Lanczos' kernel has in `warp`: a new pixel is made of twice as many rows and columns. */
const LOBES = 5;

/** Write the pixels around a place on an axis and what each weighs; how much of the place lies inside.
 *  @param {number} place @param {number} extent @param {Int32Array} near @param {Float64Array} weights */
function taps(place, extent, near, weights) {
  const first = Math.floor(place) + 1 - LOBES;
  let sum = 0;
  for (let n = 0; n < 2 * LOBES; n++) {
    const away = Math.PI * (first + n - place);
    const weight = Number.isInteger(place) ? Number(first + n === place) : (LOBES * Math.sin(away) * Math.sin(away / LOBES)) / (away * away);
    near[n] = Math.min(Math.max(first + n, 0), extent - 1);
    weights[n] = weight;
    sum += weight;
  }
  for (let n = 0; n < 2 * LOBES; n++) weights[n] /= sum;
  return Math.min(Math.max(Math.min(place + 1, extent - place), 0), 1);
}

/** Shift (pixels downward), scale (a factor) or turn (degrees counter-clockwise) about the centre, as
 *  `zfcore.invariance.warp`: interpolated by a windowed sinc, and 0 is what comes in from outside.
 *  @param {Float32Array} input (3, S, S) @param {number} side S @param {"translate" | "scale" | "rotate"} transform @param {number} value */
function warp(input, side, transform, value) {
  const cells = side * side;
  const centre = (side - 1) / 2;
  const turn = (value * Math.PI) / 180;
  const from = {
    translate: (/** @type {number} */ y, /** @type {number} */ x) => [y - value, x],
    scale: (/** @type {number} */ y, /** @type {number} */ x) => [y / value, x / value],
    rotate: (/** @type {number} */ y, /** @type {number} */ x) => [Math.cos(turn) * y + Math.sin(turn) * x, Math.cos(turn) * x - Math.sin(turn) * y],
  }[transform];
  const warped = new Float32Array(3 * cells);
  const [rows, columns] = [new Int32Array(2 * LOBES), new Int32Array(2 * LOBES)];
  const [ofRows, ofColumns] = [new Float64Array(2 * LOBES), new Float64Array(2 * LOBES)];
  for (let n = 0; n < cells; n++) {
    const [y, x] = from(Math.floor(n / side) - centre, (n % side) - centre);
    const inside = taps(y + centre, side, rows, ofRows) * taps(x + centre, side, columns, ofColumns);
    if (!inside) continue;
    for (let colour = 0; colour < 3; colour++) {
      let sum = 0;
      for (let i = 0; i < 2 * LOBES; i++) {
        const start = colour * cells + rows[i] * side;
        let line = 0;
        for (let j = 0; j < 2 * LOBES; j++) line += ofColumns[j] * input[start + columns[j]];
        sum += ofRows[i] * line;
      }
      warped[colour * cells + n] = sum * inside;
    }
  }
  return warped;
}

/** How far features moved, as a share of the length they had. @param {Float32Array} before @param {Float32Array} after */
function distance(before, after) {
  let [moved, length] = [0, 0];
  for (let n = 0; n < before.length; n++) {
    moved += (after[n] - before[n]) ** 2;
    length += before[n] ** 2;
  }
  return length ? Math.sqrt(moved / length) : 0;
}
