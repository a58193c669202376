// @ts-check
/*
 * The network at work, in a thread of its own. This one function is the worker's whole program: its text goes
 * into a Blob, since a page opened from disk may not start a worker from a file. `unpack` comes along with it.
 */

/** @typedef {{pictures: Float32Array, outputs: string[]}} Forward pictures (N, 3, S, S) */
/** @typedef {{layer: string, picture: Float32Array, channel: number, position: [number, number], rule: number}} Projection
 *  position (y, x), or (-1, -1) for the whole map; rule 0 deconvnet, 1 gradient, 2 guided */
/** @typedef {{picture: Float32Array, size: [number, number], stride?: number, corners?: [number, number][],
 *             fill: number | Float32Array, layer?: string, channel?: number, batch?: number}} Scan size (height, width);
 *             corners (top, left), instead of a stride; fill in the network's units, or a picture (3, S, S) */
/** @typedef {Record<string, {dims: number[], data: Float32Array}>} Values */

function networkWorker() {
  "use strict";
  const scope = /** @type {any} */ (self);
  /** @type {any} */
  let ort;
  /** @type {Map<string, Uint8Array>} */
  let files = new Map();
  /** @type {any} */
  let manifest;
  /** @type {Map<string, any>} */
  const sessions = new Map();
  /** @type {Set<number>} */
  const cancelled = new Set();

  /** @param {string} name */
  const text = (name) => new TextDecoder().decode(files.get(name));

  /** A graph, made ready on first use and kept. @param {string} name */
  async function session(name) {
    if (!sessions.has(name)) {
      const { file } = manifest.weights;
      const data = files.get(file);
      sessions.set(name, await ort.InferenceSession.create(files.get(name), { externalData: [{ path: file, data }] }));
    }
    return sessions.get(name);
  }

  /** @param {string} name the graph's @param {Record<string, any>} feeds @param {string[]} outputs @returns {Promise<Values>} */
  async function run(name, feeds, outputs) {
    const values = await (await session(name)).run(feeds, outputs);
    return Object.fromEntries(outputs.map((output) => [output, { dims: [...values[output].dims], data: values[output].data }]));
  }

  /** @param {Float32Array} pictures */
  const batch = (pictures) => {
    const side = manifest.input_size;
    return new ort.Tensor("float32", pictures, [pictures.length / (3 * side * side), 3, side, side]);
  };
  /** @param {number[]} numbers @param {number[]} dims */
  const whole = (numbers, dims) => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), dims);

  /** @param {Projection} _ @returns {Promise<Float32Array>} */
  async function project({ layer, picture, channel, position, rule }) {
    const feeds = { picture: batch(picture), channel: whole([channel], []), position: whole(position, [2]), rule: whole([rule], []) };
    return (await run(`project_${layer}.onnx`, feeds, ["projection"])).projection.data;
  }

  /** Let messages in; false when this work is no longer wanted. @param {number} id */
  async function wanted(id) {
    await new Promise((resume) => setTimeout(resume));
    return !cancelled.has(id);
  }

  const answers = {
    /** @param {{runtime: string[], network: string[]}} _ */
    async start({ runtime, network }) {
      files = await unpack(runtime);
      const url = (/** @type {string} */ name) => URL.createObjectURL(new Blob([text(name)], { type: "text/javascript" }));
      scope.importScripts(url("ort.wasm.min.js"));
      ort = scope.ort;
      const { wasm } = ort.env;
      wasm.numThreads = 1; // more need a page that is isolated from others, which one from disk cannot be
      wasm.wasmBinary = files.get("ort-wasm-simd-threaded.wasm")?.buffer;
      wasm.wasmPaths = { mjs: url("ort-wasm-simd-threaded.mjs") };
      files = await unpack(network);
      manifest = JSON.parse(text("manifest.json"));
      await session("forward.onnx");
      return { manifest, card: JSON.parse(text("card.json")), mean: new Float32Array(/** @type {Uint8Array} */ (files.get("mean")).buffer) };
    },

    /** @param {Forward} _ */
    forward: ({ pictures, outputs }) => run("forward.onnx", { pictures: batch(pictures) }, outputs),

    project,

    /** The occluder at some places, or at every whole one, row by row: logits, and the sum of one feature map.
     *  @param {Scan} _ @param {number} id */
    async occlude({ picture, size: [high, wide], stride = 1, corners, fill, layer, channel = 0, batch: most = 16 }, id) {
      const side = manifest.input_size;
      const rows = Math.floor((side - high) / stride) + 1;
      const columns = Math.floor((side - wide) / stride) + 1;
      if (!(rows > 0 && columns > 0)) throw new Error(`an occluder of ${high}×${wide} px does not fit into ${side}×${side}`);
      const places = corners ?? Array.from({ length: rows * columns }, (_, n) => [Math.floor(n / columns) * stride, (n % columns) * stride]);
      const outputs = layer ? ["logits", layer] : ["logits"];
      /** @type {Float32Array | undefined} */
      let logits;
      const sums = new Float32Array(layer ? places.length : 0);
      for (let first = 0; first < places.length; first += most) {
        const count = Math.min(most, places.length - first);
        const pictures = new Float32Array(count * picture.length);
        for (let n = 0; n < count; n++) {
          const occluded = pictures.subarray(n * picture.length, (n + 1) * picture.length);
          occluded.set(picture);
          const [top, left] = places[first + n];
          for (let line = 0; line < 3 * high; line++) {
            const from = (Math.floor(line / high) * side + top + (line % high)) * side + left;
            if (typeof fill === "number") occluded.fill(fill, from, from + wide);
            else occluded.set(fill.subarray(from, from + wide), from);
          }
        }
        const values = await run("forward.onnx", { pictures: batch(pictures) }, outputs);
        const classes = values.logits.dims[1];
        logits ??= new Float32Array(places.length * classes);
        logits.set(values.logits.data, first * classes);
        if (layer) {
          const { dims: [, maps, h, w], data } = values[layer];
          for (let n = 0; n < count; n++) {
            const start = (n * maps + channel) * h * w;
            sums[first + n] = data.subarray(start, start + h * w).reduce((a, b) => a + b, 0);
          }
        }
        if (!(await wanted(id))) return null;
      }
      return { rows, columns, logits, sums };
    },
  };

  scope.onmessage = async (/** @type {MessageEvent} */ { data: { id, call, argument, cancel } }) => {
    if (cancel) return void cancelled.add(cancel);
    try {
      const answer = /** @type {any} */ (answers)[call];
      const result = await answer(argument, id);
      scope.postMessage({ id, result });
    } catch (problem) {
      scope.postMessage({ id, problem: problem instanceof Error ? problem.message : String(problem) });
    }
    cancelled.delete(id);
  };
}
