// @ts-check
/*
 * What every feature looks for: nine hits with their projections, brought layer by layer when they are first wanted;
 * and the nine crops of the page's own photographs that excite it most, cut here and projected by the network.
 */

/** @typedef {{name: string, path: string, asset: string, features: number[], patches: boolean}} Wall one layer */
/** @typedef {{about: {data: string | null, n: number | null}, layers: Wall[]}} GalleryState */
/** @typedef {[label: string, picture: string, value: number]} Hit */
/** @typedef {{hits: (Hit | null)[], projections: HTMLCanvasElement[], patches: HTMLCanvasElement[]}} Nine */
/** @typedef {{hits: (Hit | null)[][], projections: HTMLImageElement, patches?: HTMLImageElement}} Sprites */
/** @typedef {{title: string, square: Raster, input: Float32Array, position: [number, number], field: Field, value: number}} Crop */

/** @param {Uint8Array | undefined} bytes WebP */
async function imageFrom(bytes) {
  if (!bytes) throw new Error("a picture is missing; build the page again");
  return imageOf(URL.createObjectURL(new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (bytes)], { type: "image/webp" })));
}

/** The files of an asset. @param {string} name */
async function filesOf(name) {
  const lacks = missing();
  if (lacks) throw new Error(lacks);
  return unpack(await pieces(name, () => {}));
}

/** @param {Uint8Array | undefined} bytes */
const jsonOf = (bytes) => JSON.parse(new TextDecoder().decode(bytes));

class Gallery {
  /** @type {Map<string, Promise<Sprites>>} */
  static #sprites = new Map(); // all explorers of a page share them

  /** @param {GalleryState} state */
  constructor({ about, layers }) {
    this.about = about;
    this.walls = new Map(layers.map((wall) => [wall.path, wall]));
  }

  /** @param {string} path @param {number} feature */
  has(path, feature) {
    return Boolean(this.walls.get(path)?.features.includes(feature));
  }

  /** @param {string} path @returns {Promise<Sprites>} */
  sprites(path) {
    const wall = this.walls.get(path);
    if (!wall) throw new Error(`this gallery has no ${path}`);
    let found = Gallery.#sprites.get(wall.asset);
    if (!found) {
      found = filesOf(wall.asset).then(async (files) => ({
        hits: jsonOf(files.get("hits.json")),
        projections: await imageFrom(files.get("projections.webp")),
        ...(wall.patches ? { patches: await imageFrom(files.get("patches.webp")) } : {}),
      }));
      Gallery.#sprites.set(wall.asset, found);
      found.catch(() => Gallery.#sprites.delete(wall.asset)); // so that another click tries again
    }
    return found;
  }

  /** The hits of a feature with their pictures. @param {string} path @param {number} feature @returns {Promise<Nine>} */
  async nine(path, feature) {
    insistOnPixels();
    const { hits, projections, patches } = await this.sprites(path);
    const row = this.walls.get(path)?.features.indexOf(feature) ?? -1;
    if (row < 0) throw new Error(`this gallery does not show feature ${feature}`);
    const cells = (/** @type {HTMLImageElement | undefined} */ sprite) => (sprite ? hits[row].map((_, column) => {
      const side = sprite.naturalWidth / hits[row].length;
      const { canvas, context } = canvasOf(side, side);
      context.drawImage(sprite, column * side, row * side, side, side, 0, 0, side, side);
      return canvas;
    }) : []);
    return { hits: hits[row], projections: cells(projections), patches: cells(patches) };
  }
}

class Crops {
  /** @type {Promise<{files: Map<string, Uint8Array>, names: string[], hits: Record<string, Record<number, number[][]>>}> | undefined} */
  #found;

  /** @param {string} asset @param {Map<string, Photograph>} photographs */
  constructor(asset, photographs) {
    this.asset = asset;
    this.photographs = photographs;
  }

  /** The strongest crops of a feature, each as the network takes it.
   *  @param {string} path @param {number} feature @param {Card & {mean: Float32Array | undefined}} card @returns {Promise<Crop[]>} */
  async nine(path, feature, card) {
    insistOnPixels();
    if (!this.#found) {
      this.#found = filesOf(this.asset).then((files) => ({ files, ...jsonOf(files.get("crops.json")) }));
      this.#found.catch(() => (this.#found = undefined)); // so that another click tries again
    }
    const { files, names, hits } = await this.#found;
    const side = card.input_size;
    return Promise.all((hits[path]?.[feature] ?? []).map(async ([of, top, left, length, y, x, value, above, before, high, wide]) => {
      const photograph = new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (files.get(`${of}.webp`))], { type: "image/webp" });
      const crop = await createImageBitmap(photograph, left, top, length, length, { colorSpaceConversion: "none" });
      const pixels = await squareOfBitmap(crop, card);
      crop.close();
      return {
        title: this.photographs.get(names[of])?.title ?? names[of], square: { width: side, height: side, pixels },
        input: card.mean ? toInput(pixels, card.mean, card) : new Float32Array(), position: [y, x], value,
        field: { top: above, left: before, bottom: above + high, right: before + wide },
      };
    }));
  }
}

/** Show pictures in a list that Python wrote, each with its words; small ones with their cells kept. @param {HTMLElement} list
 *  @param {(HTMLCanvasElement | undefined)[]} pictures @param {string[]} words @param {string[]} labels
 *  @param {{crispBelow: number}} style */
function drawNine(list, pictures, words, labels, { crispBelow }) {
  Array.from(list.children).forEach((item, n) => {
    const image = find(item, "img", HTMLImageElement);
    const picture = words[n] ? pictures[n] : undefined;
    item.toggleAttribute("hidden", !picture);
    if (!picture) return;
    [image.src, image.alt, image.title] = [picture.toDataURL(), words[n], words[n]];
    image.classList.toggle("zf-crisp", Math.max(picture.width, picture.height) < crispBelow);
    const caption = item.querySelector("span");
    if (caption) caption.textContent = labels[n];
  });
}

/** What a hit is called: by its label, or without one by its picture. @param {Hit} hit */
const nameOf = ([label, picture]) => label || picture;

/** What the hits are called, with how often, the most frequent first. @param {(Hit | null)[]} hits
 *  @param {Record<string, string>} words */
function named(hits, words) {
  const counts = new Map();
  for (const hit of hits) if (hit) counts.set(nameOf(hit), (counts.get(nameOf(hit)) ?? 0) + 1);
  const sorted = Array.from(counts).sort((a, b) => b[1] - a[1]);
  return sorted.map(([label, count]) => (count > 1 ? fill(words.times, { count, label }) : label));
}

/** What each hit is, for those who do not see it. @param {Record<string, string>} words
 *  @returns {(hit: Hit | null, n: number) => string} */
const toldOf = (words) => (hit, n) => (hit ? fill(hit[0] ? words.hit : words.unlabelled, { rank: n + 1, label: hit[0], picture: hit[1], value: digits(hit[2]) }) : "");
