// @ts-check
/* Numbers as pixels: the same as `figures.stretch`, `view.colour_map` and `view.contact_sheet` give in Python. */

/** @typedef {{width: number, height: number, pixels: Uint8ClampedArray}} Raster 8-bit RGB, row by row */
/** @typedef {{left: number, top: number, right: number, bottom: number}} Field in pixels; the last two are beyond it */

/** Show a signed picture around mid-grey, stretched by a percentile of its own absolute values that are not zero.
 *  @param {Float32Array} projection (3, S, S) @param {number} side @returns {Raster} */
function stretch(projection, side, percentile = 99.5) {
  const strengths = Float64Array.from(projection.filter((value) => value !== 0), Math.abs).sort();
  const place = ((strengths.length - 1) * percentile) / 100;
  const below = Math.floor(place);
  const above = Math.min(below + 1, strengths.length - 1);
  const scale = strengths.length ? strengths[below] + (place - below) * (strengths[above] - strengths[below]) : 1;
  const cells = side * side;
  const pixels = new Uint8ClampedArray(3 * cells);
  for (let n = 0; n < 3 * cells; n++) {
    // The array rounds to the nearest, halves to even, as numpy's rint does.
    pixels[3 * (n % cells) + Math.floor(n / cells)] = Math.min(1, Math.max(-1, projection[n] / scale)) * 127.5 + 127.5;
  }
  return { width: side, height: side, pixels };
}

/** Colour a feature map: dark is 0, bright its maximum. @param {Float32Array} map @param {number} width
 *  @param {Uint8Array} colours 256 RGB triples @returns {Raster} */
function colourMap(map, width, colours) {
  const peak = map.reduce((a, b) => Math.max(a, b), 0);
  const pixels = new Uint8ClampedArray(3 * map.length);
  map.forEach((value, n) => {
    const level = peak > 0 ? Math.round((255 * Math.max(0, value)) / peak) : 0;
    pixels.set(colours.subarray(3 * level, 3 * level + 3), 3 * n);
  });
  return { width, height: map.length / width, pixels };
}

/** @param {Raster} raster @param {Field} field @returns {Raster} */
function cut({ width, pixels }, { left, top, right, bottom }) {
  const part = { width: right - left, height: bottom - top, pixels: new Uint8ClampedArray(3 * (right - left) * (bottom - top)) };
  for (let y = top; y < bottom; y++) {
    part.pixels.set(pixels.subarray(3 * (y * width + left), 3 * (y * width + right)), 3 * (y - top) * part.width);
  }
  return part;
}

/** @param {Raster} raster */
function canvasFrom({ width, height, pixels }) {
  const { canvas, context } = canvasOf(width, height);
  const image = context.createImageData(width, height);
  for (let n = 0; n < width * height; n++) {
    image.data.set([pixels[3 * n], pixels[3 * n + 1], pixels[3 * n + 2], 255], 4 * n);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The pixels of a loaded picture of the page. @param {HTMLImageElement} image @returns {Raster} */
function rasterOf(image) {
  insistOnPixels();
  const { naturalWidth: width, naturalHeight: height } = image;
  const { context } = canvasOf(width, height);
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  return { width, height, pixels: new Uint8ClampedArray(3 * width * height).map((_, n) => data[4 * Math.floor(n / 3) + (n % 3)]) };
}

/** Pictures in a row, each on mid-grey, small ones with their cells kept; `frame` is in the unit square.
 *  @param {{source: CanvasImageSource & {width: number, height: number}, frame?: Field | undefined}[]} cells
 *  @param {{grey: number, crispBelow: number, frame: string}} style */
function contactSheet(cells, style, side = 448, gap = 16) {
  const { canvas, context } = canvasOf(cells.length * (side + gap) - gap, side);
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  cells.forEach(({ source, frame }, n) => {
    const x0 = n * (side + gap);
    const longest = Math.max(source.width, source.height);
    const [width, height] = [source.width, source.height].map((length) => Math.max(1, Math.round((length * side) / longest)));
    context.fillStyle = `rgb(${style.grey},${style.grey},${style.grey})`;
    context.fillRect(x0, 0, side, side);
    context.imageSmoothingEnabled = longest >= style.crispBelow;
    context.imageSmoothingQuality = "high";
    context.drawImage(source, x0 + Math.floor((side - width) / 2), Math.floor((side - height) / 2), width, height);
    if (frame) {
      const [left, top, right, bottom] = [frame.left, frame.top, frame.right, frame.bottom].map((edge) => edge * side);
      for (const [colour, line] of /** @type {[string, number][]} */ ([["black", 6], [style.frame, 2]])) {
        context.strokeStyle = colour;
        context.lineWidth = line;
        context.strokeRect(x0 + left + 3, top + 3, right - left - 6, bottom - top - 6);
      }
    }
  });
  return canvas;
}
