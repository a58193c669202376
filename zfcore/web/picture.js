// @ts-check
/*
 * A reader's photograph as the network wants it: the preprocessing of §3, step for step as `squares` and
 * `to_input` of zfcore/data.py, where the resize filter is written down.
 */

/** @typedef {{first: number, weights: Float64Array}} Taps the input pixels that one output pixel is made of */
/** @typedef {{resize: number, input_size: number, scale: number | number[], labels?: string[], classes?: string[]}} Card */
/** @typedef {(top: number, count: number, left: number, wide: number) => Uint8ClampedArray | Promise<Uint8ClampedArray>} Rows
 *             RGBA of that part of the picture, row by row */

const STRIP = 128; // rows read at a time: a whole 48-megapixel picture is more than a canvas holds on a phone

/** Let the page answer its reader before going on. @returns {Promise<void>} */
const breathe = () => new Promise((resume) => setTimeout(resume));

/** The length of a side after the smaller one was brought to `resize`; halves round up.
 *  @param {number} length @param {number} short @param {number} resize */
const resized = (length, short, resize) => Math.floor((2 * length * resize + short) / (2 * short));

/** Weights are whole numbers of this size's parts, as Pillow's are, so that both round alike. */
const ONE = 2 ** 22;

/** The triangle filter that brings a line of `from` pixels to `to`: the taps of outputs `begin` to `begin + count`.
 *  @param {number} from @param {number} to @param {number} begin @param {number} count @returns {Taps[]} */
function triangle(from, to, begin, count) {
  const step = from / to;
  const reach = Math.max(step, 1);
  return Array.from({ length: count }, (_, n) => {
    const centre = (begin + n + 0.5) * step;
    const first = Math.max(0, Math.floor(centre - reach + 0.5));
    const end = Math.min(from, Math.floor(centre + reach + 0.5));
    const weights = Float64Array.from({ length: end - first }, (_, j) => Math.max(0, 1 - Math.abs(first + j + 0.5 - centre) / reach));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => Math.round((weight / sum) * ONE)) };
  });
}

/** Where the network's square lies in the resized picture: centre of the centre. @param {number} length @param {Card} card */
const corner = (length, { resize, input_size }) => Math.floor((length - resize) / 2) + Math.floor((resize - input_size) / 2);

/** The square that the network sees, (S, S, 3) as 8-bit RGB: rows resampled first, then columns, each rounded.
 *  @param {Rows} rows @param {number} width @param {number} height @param {Card} card @returns {Promise<Uint8ClampedArray>} */
async function squareOf(rows, width, height, card) {
  const side = card.input_size;
  const short = Math.min(width, height);
  const [wide, high] = [width, height].map((length) => resized(length, short, card.resize));
  const across = triangle(width, wide, corner(wide, card), side);
  const down = triangle(height, high, corner(high, card), side);
  const span = (/** @type {Taps[]} */ taps) => taps[side - 1].first + taps[side - 1].weights.length - taps[0].first;
  const [top, left, wanted] = [down[0].first, across[0].first, span(across)];
  const between = new Uint8ClampedArray(span(down) * side * 3);
  const lines = between.length / (side * 3);
  for (let strip = 0; strip < lines; strip += STRIP) {
    const count = Math.min(STRIP, lines - strip);
    const pixels = await rows(top + strip, count, left, wanted);
    for (let y = 0; y < count; y++) {
      for (let x = 0; x < side; x++) {
        const { first, weights } = across[x];
        let [red, green, blue] = [ONE / 2, ONE / 2, ONE / 2];
        for (let j = 0, at = 4 * (y * wanted + first - left); j < weights.length; j++, at += 4) {
          red += weights[j] * pixels[at];
          green += weights[j] * pixels[at + 1];
          blue += weights[j] * pixels[at + 2];
        }
        between.set([Math.floor(red / ONE), Math.floor(green / ONE), Math.floor(blue / ONE)], 3 * ((strip + y) * side + x));
      }
    }
    await breathe();
  }
  const square = new Uint8ClampedArray(side * side * 3);
  for (let y = 0; y < side; y++) {
    const { first, weights } = down[y];
    for (let x = 0; x < 3 * side; x++) {
      let sum = ONE / 2;
      for (let j = 0; j < weights.length; j++) sum += weights[j] * between[(first - top + j) * 3 * side + x];
      square[y * 3 * side + x] = Math.floor(sum / ONE);
    }
  }
  return square;
}

/** (S, S, 3) 8-bit RGB → (3, S, S) as the network takes it: (pixels − mean) / scale.
 *  @param {Uint8ClampedArray} square @param {Float32Array} mean (3, S, S) @param {Card} card */
function toInput(square, mean, card) {
  const cells = square.length / 3;
  return mean.map((value, n) => {
    const colour = Math.floor(n / cells);
    return (square[3 * (n % cells) + colour] - value) / (typeof card.scale === "number" ? card.scale : card.scale[colour]);
  });
}

/** A canvas to draw on and read from. @param {number} width @param {number} height */
function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("this browser gives no canvas to draw on");
  return { canvas, context };
}

/** Draw on white, as what is transparent is laid on white. @param {CanvasRenderingContext2D} context
 *  @param {CanvasImageSource} source @param {number} x @param {number} y */
function drawOnWhite(context, source, x, y) {
  context.fillStyle = "white";
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
  context.drawImage(source, x, y);
}

/** Some browsers hide the pixels of pictures from pages, and give others in their place. */
function insistOnPixels() {
  const { context } = canvasOf(1, 1);
  context.fillStyle = "white";
  context.fillRect(0, 0, 1, 1);
  if (context.getImageData(0, 0, 1, 1).data.some((value) => value !== 255)) {
    throw new Error("this browser hides the pixels of pictures from pages (a privacy setting), so they can be neither cut out nor shown to the network");
  }
}

/** Decode a picture file: turned as its EXIF says, which browsers do unasked and whose name for it differs; no colour
 *  profile applied, as Python does.
 *  @param {Blob} file @param {string} name */
async function decodePicture(file, name) {
  insistOnPixels();
  try {
    return await createImageBitmap(file, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  } catch {
    const kind = file.type || name; // not every system knows the type of every file
    if (/hei[cf]$/i.test(kind)) throw new Error(`“${name}” is a HEIC photograph, which this browser cannot read; save it as JPEG first`);
    if (/svg(\+xml)?$/i.test(kind)) throw new Error(`“${name}” is an SVG drawing, which has no pixels of its own; save it as PNG first`);
    throw new Error(`“${name}” cannot be read as a picture; JPEG, PNG, WebP and GIF files are, if they are whole`);
  }
}

/** The network's square of a decoded picture. @param {ImageBitmap} bitmap @param {Card} card */
function squareOfBitmap(bitmap, card) {
  const { width, height } = bitmap;
  const { canvas, context } = canvasOf(1, STRIP);
  /** @type {Rows} */
  const rows = (top, count, left, wide) => {
    canvas.width = wide; // no more than the network sees: a panorama is wider than a canvas can be
    drawOnWhite(context, bitmap, -left, -top);
    return context.getImageData(0, 0, wide, count).data;
  };
  return squareOf(rows, width, height, card);
}

/** The same square, sharp, for the reader's eyes. @param {ImageBitmap} bitmap @param {Card} card @param {number} side */
function viewOf(bitmap, card, side) {
  const short = Math.min(bitmap.width, bitmap.height);
  const left = (corner(resized(bitmap.width, short, card.resize), card) * short) / card.resize;
  const top = (corner(resized(bitmap.height, short, card.resize), card) * short) / card.resize;
  const field = (card.input_size * short) / card.resize;
  const { canvas, context } = canvasOf(side, side);
  context.fillStyle = "white";
  context.fillRect(0, 0, side, side);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, left, top, field, field, 0, 0, side, side);
  return canvas.toDataURL("image/jpeg", 0.9);
}
