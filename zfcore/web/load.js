// @ts-check
/*
 * What the network is made of, brought on first use. A page opened from disk may not fetch files, but it may add
 * scripts: runtime and networks are scripts that each leave a piece of gzip, as base64, in `zfcore.parts`.
 */

/** @typedef {{bytes: number, files: string[]}} Asset a gzip pack in pieces; `files` are relative to the book's `_static/zfcore/` */
/** @typedef {{parts: Record<string, string>, assets: Record<string, Asset>}} Store */

const RUNTIME = "runtime";

/** @returns {Store} */
const store = () => (/** @type {any} */ (globalThis).zfcore ??= { parts: {}, assets: {} });

/** What this browser lacks to run a network, in words; empty if nothing. */
function missing() {
  const needs = { WebAssembly: "WebAssembly", Worker: "workers", DecompressionStream: "DecompressionStream" };
  const lacks = Object.entries(needs).filter(([name]) => !(name in globalThis)).map(([, words]) => words);
  return lacks.length ? `This browser is too old to run the network: it lacks ${lacks.join(" and ")}. Chrome 94, Firefox 113, Safari 16.4 and later have all.` : "";
}

/** How many bytes are still to come before these assets are here. @param {string[]} names */
function bytesToCome(names) {
  const { assets, parts } = store();
  return names.reduce((sum, name) => sum + (assets[name].files.every((file) => file in parts) ? 0 : assets[name].bytes), 0);
}

/** @param {string} file @returns {Promise<void>} */
function addScript(file) {
  // Sphinx writes on every page how to reach the book's root from there.
  const root = document.documentElement.dataset.content_root ?? "";
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `${root}_static/zfcore/${file}`;
    script.onload = () => resolve();
    script.onerror = () => reject(new Error(`${file} did not arrive; is the book's folder complete, or the connection gone?`));
    document.head.append(script);
  });
}

/** The pieces of an asset, in order.
 *  @param {string} name @param {(bytes: number) => void} arrived */
async function pieces(name, arrived) {
  const { assets, parts } = store();
  const asset = assets[name];
  if (!asset) throw new Error(`this page has no ${name}; build the book again`);
  const found = [];
  for (const file of asset.files) {
    if (!(file in parts)) {
      await addScript(file);
      arrived(parts[file]?.length ?? 0);
    }
    if (!(file in parts)) throw new Error(`${file} is damaged; build the book again`);
    found.push(parts[file]);
  }
  return found;
}

/** Base64 pieces of a gzip pack → its files. @param {string[]} pieces */
async function unpack(pieces) {
  const chunks = pieces.map((piece) => Uint8Array.from(atob(piece), (letter) => letter.charCodeAt(0)));
  const stream = new Blob(chunks).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer().catch(() => {
    throw new Error("what arrived is damaged; build the book again");
  }));
  const end = 4 + new DataView(bytes.buffer).getUint32(0, true);
  /** @type {[string, number, number, number][]} name, offset, length, planes */
  const index = JSON.parse(new TextDecoder().decode(bytes.subarray(4, end)));
  return new Map(index.map(([name, offset, length, planes]) => {
    const stored = bytes.subarray(end + offset, end + offset + length);
    if (planes === 1) return [name, stored.slice()];
    const file = new Uint8Array(length); // all first bytes of the numbers, then all second bytes, …
    const count = length / planes;
    for (let plane = 0; plane < planes; plane++) {
      for (let n = 0, from = plane * count; n < count; n++) file[n * planes + plane] = stored[from + n];
    }
    return [name, file];
  }));
}
