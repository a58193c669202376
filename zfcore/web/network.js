// @ts-check
/*
 * The network as the page talks to it. All explorers of a page share one worker for each network. Work is done
 * one piece at a time; what a newer wish of the same lane has overtaken is dropped, and its promise gives null.
 */

/** @typedef {{id: number, call: string, argument: unknown, lane: string, resolve: (result: any) => void,
 *             reject: (problem: Error) => void}} Task */
/** @typedef {{input_size: number, rules: string[], layers: {name: string, kind: string, shape: number[],
 *             geometry: null | {receptive_field: number[], stride: number[], offset: number[]}}[]}} Manifest */
/** @typedef {{lane?: string}} Wish */

class Network {
  /** @type {Map<string, Promise<Network>>} */
  static #loading = new Map();

  /** The network of this name, brought here on first use. @param {string} name
   *  @param {(done: number, of: number) => void} [progress] bytes @returns {Promise<Network>} */
  static load(name, progress = () => {}) {
    let loading = Network.#loading.get(name);
    if (!loading) {
      loading = Network.#bring(name, progress);
      Network.#loading.set(name, loading);
      loading.catch(() => Network.#loading.delete(name)); // so that another click tries again
    }
    return loading;
  }

  /** @param {string} name @param {(done: number, of: number) => void} progress */
  static async #bring(name, progress) {
    const lacks = missing();
    if (lacks) throw new Error(lacks);
    const of = bytesToCome([RUNTIME, name]);
    let done = 0;
    const arrived = (/** @type {number} */ bytes) => progress((done += bytes), of);
    progress(0, of);
    const parts = { runtime: await pieces(RUNTIME, arrived), network: await pieces(name, arrived) };
    progress(of, of); // all is here: what arrived is a little less than what was announced, the scripts around it
    const network = new Network();
    try {
      return Object.assign(network, await network.ask("start", parts));
    } catch (problem) {
      network.#worker.terminate();
      throw problem;
    } finally {
      URL.revokeObjectURL(network.#program); // the worker has read it
    }
  }

  // What the network's files say; there once `load` is done.
  /** @type {Manifest} */
  manifest = { input_size: 0, rules: [], layers: [] };
  /** @type {Card} */
  card = { resize: 0, input_size: 0, scale: 1 };
  mean = new Float32Array();

  #last = 0;
  /** @type {Task[]} */
  #waiting = [];
  /** @type {Task | undefined} */
  #running;
  #program = URL.createObjectURL(new Blob([`${unpack};(${networkWorker})()`], { type: "text/javascript" }));
  #worker = new Worker(this.#program);

  constructor() {
    this.#worker.onmessage = ({ data }) => this.#answered(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const problem = new Error(`the network stopped${event.message ? `: ${event.message}` : ", and this browser does not say why"}`);
      for (const request of [this.#running, ...this.#waiting]) request?.reject(problem);
      [this.#running, this.#waiting] = [undefined, []];
    };
  }

  /** @param {string} call @param {unknown} argument @param {Wish} wish @returns {Promise<any>} */
  ask(call, argument, { lane = "" } = {}) {
    return new Promise((resolve, reject) => {
      if (lane) {
        const overtaken = this.#waiting.filter((request) => request.lane === lane);
        this.#waiting = this.#waiting.filter((request) => request.lane !== lane);
        for (const request of overtaken) request.resolve(null);
        if (this.#running?.lane === lane) this.#worker.postMessage({ cancel: this.#running.id });
      }
      this.#waiting.push({ id: ++this.#last, call, argument, lane, resolve, reject });
      this.#next();
    });
  }

  #next() {
    if (this.#running) return;
    this.#running = this.#waiting.shift();
    if (this.#running) {
      const { id, call, argument } = this.#running;
      this.#worker.postMessage({ id, call, argument });
    }
  }

  /** @param {{id: number, result?: unknown, problem?: string}} message */
  #answered({ id, result, problem }) {
    const request = this.#running;
    if (request?.id !== id) return;
    this.#running = undefined;
    if (problem === undefined) request.resolve(result);
    else request.reject(new Error(problem));
    this.#next();
  }

  /** @param {Forward} argument @param {Wish} [wish] @returns {Promise<Values | null>} */
  forward(argument, wish) {
    return this.ask("forward", argument, wish);
  }

  /** What `Deconvnet.project` gives, (3, S, S). @param {Projection} argument @param {Wish} [wish] @returns {Promise<Float32Array | null>} */
  project(argument, wish) {
    return this.ask("project", argument, wish);
  }

  /** @param {Scan} argument @param {Wish} [wish]
   *  @returns {Promise<{rows: number, columns: number, logits: Float32Array, sums: Float32Array} | null>} */
  occlude(argument, wish) {
    return this.ask("occlude", argument, wish);
  }
}

// A page's other scripts, and the tests, talk to the network as the explorers do.
Object.assign(store(), { Network });
