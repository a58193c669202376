// @ts-check
/*
 * The class explorer (§5.3): choose a class of another data set; see how its accuracy grows with the training pictures,
 * and what the features look for that carry it. It needs no network: Python wrote every class's curves and words.
 */

/** @typedef {{name: string, says: string, alt: string, lines: string[], bands: string[], carriers: [feature: number, caption: string][]}} Lesson
 *             `lines` and `bands` are the points of the curves in the drawing, row by row */
/** @typedef {{gallery: GalleryState, path: string, words: Record<string, string>, classes: Lesson[], start: number,
 *             style: {crispBelow: number}}} ClassState */

class ClassExplorer {
  #turn = 0; // of choices: a later one overtakes an earlier one

  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
    /** @type {ClassState} */
    this.state = JSON.parse(find(root, "script.zf-state", HTMLScriptElement).text);
    this.gallery = new Gallery(this.state.gallery);
    this.shown = this.state.start;
    this.select = find(root, '[data-choice="class"]', HTMLSelectElement);
  }

  begin() {
    const { root } = this;
    root.dataset.on = "";
    for (const control of root.querySelectorAll("button, select")) control.removeAttribute("disabled");
    this.select.addEventListener("input", () => this.#choose(Number(this.select.value)));
    root.addEventListener("click", async ({ target }) => {
      const task = target instanceof Element ? target.closest("button")?.dataset.do : undefined;
      if (task === "previous" || task === "next") this.#choose(this.shown + (task === "next" ? 1 : -1));
      if (task !== "link") return;
      await copy(this.#address()).then(() => this.#tell(this.state.words.copied), (problem) => this.#tell(inWords(problem), true));
    });
    if (document.querySelector('.zf-explorer[data-explorer="class"]') !== root) return; // the address tells of one only
    addEventListener("hashchange", () => this.#follow());
    this.#follow();
  }

  /** Show a class by its place, after the last the first again. @param {number} place */
  #choose(place) {
    const count = this.state.classes.length;
    this.shown = (place + count) % count;
    this.#address();
    void this.#show();
  }

  /** A link to what is shown. */
  #address() {
    return pointTo(`#class=${encodeURIComponent(this.state.classes[this.shown].name)}`);
  }

  /** Go where the page's address points to, if it is a class. */
  #follow() {
    const [, name] = /^#class=(.+)$/.exec(location.hash) ?? [];
    const place = this.state.classes.findIndex((lesson) => encodeURIComponent(lesson.name) === name || lesson.name === name);
    if (place < 0) return;
    this.#choose(place);
    this.root.scrollIntoView();
  }

  /** The words and the curves at once; the features' pictures when they are here. */
  async #show() {
    const turn = ++this.#turn;
    const { says, alt, lines, bands, carriers } = this.state.classes[this.shown];
    this.select.value = `${this.shown}`;
    find(this.root, ".zf-says", HTMLElement).textContent = says;
    const drawing = find(this.root, ".zf-curves", SVGElement);
    drawing.setAttribute("aria-label", alt);
    for (const [kind, points] of /** @type {[string, string[]][]} */ ([["polyline", lines], ["polygon", bands]])) {
      drawing.querySelectorAll(kind).forEach((shape, row) => shape.setAttribute("points", points[row]));
    }
    this.root.setAttribute("aria-busy", "true");
    const walls = Array.from(this.root.querySelectorAll(".zf-carriers .zf-wall"));
    try {
      const { path, words, style } = this.state;
      const nines = await Promise.all(carriers.map(([feature]) => (this.gallery.has(path, feature) ? this.gallery.nine(path, feature) : undefined)));
      if (turn !== this.#turn) return;
      walls.forEach((wall, n) => {
        const nine = nines[n];
        wall.toggleAttribute("hidden", !nine);
        if (!nine) return;
        find(wall, "p", HTMLElement).textContent = carriers[n][1];
        drawNine(find(wall, ".zf-nine", HTMLElement), nine.projections, nine.hits.map(toldOf(words)), [], style);
      });
      this.#tell("");
    } catch (problem) {
      if (turn !== this.#turn) return;
      walls.forEach((wall) => wall.toggleAttribute("hidden", true)); // they are another class's
      this.#tell(inWords(problem), true);
    } finally {
      if (turn === this.#turn) this.root.setAttribute("aria-busy", "false");
    }
  }

  /** @param {string} words @param {boolean} [problem] */
  #tell(words, problem = false) {
    const status = find(this.root, ".zf-status", HTMLElement);
    status.textContent = words;
    status.classList.toggle("zf-problem", problem);
  }
}

for (const root of document.querySelectorAll('.zf-explorer[data-explorer="class"]:not([data-on])')) {
  if (root instanceof HTMLElement) new ClassExplorer(root).begin();
}
