// @ts-check
/*
 * The photograph explorer of a page without a kernel. Three parts: the markup, which Python wrote and
 * which already shows the first frame; the state, a few numbers and sprites in JSON; and draw, which
 * makes the markup show the state. Another source of pixels only has to replace `panels`.
 */
(() => {
  "use strict";

  /** @typedef {{top: number, left: number, bottom: number, right: number}} Field */
  /** @typedef {{name: string, title: string, alt: string, credit: string, python: string, guesses: string}} Subject */
  /** @typedef {[number, string, boolean, number, number, number, number, number, number, string]} Numbers
   *  feature, value, does it answer, unit y and x, field left, top, right, bottom, its words in the list */
  /** @typedef {{name: string, path: string, grid: [number, number], cell: [number, number],
   *             maps: string, closeups: string, frames: Numbers[][]}} Layer */
  /** @typedef {{side: number, grey: number, crispBelow: number, says: [string, string], snippet: string,
   *             captions: Record<string, string>, rules: [string, string][], subjects: Subject[], photographs: string,
   *             layers: Layer[]}} State */
  /** @typedef {{photograph: number, layer: number, feature: number, rule: number}} Choice */

  /** Decode each sprite once, on first use. @type {Map<string, Promise<HTMLImageElement>>} */
  const decoded = new Map();
  /** @param {string} url */
  const sprite = (url) => {
    let image = decoded.get(url);
    if (!image) {
      const element = new Image();
      element.src = url;
      image = element.decode().then(() => element);
      decoded.set(url, image);
    }
    return image;
  };

  /** @param {number} width @param {number} height */
  const canvasOf = (width, height) => {
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    if (!context) throw new Error("this browser gives no canvas to draw on");
    return { canvas, context };
  };

  /** Cut a rectangle out of a picture. @param {CanvasImageSource} source
   *  @param {number} x @param {number} y @param {number} width @param {number} height */
  const cut = (source, x, y, width, height) => {
    const { canvas, context } = canvasOf(width, height);
    context.drawImage(source, x, y, width, height, 0, 0, width, height);
    return canvas;
  };

  /** Fill `{name}` in a template of Python's. @param {string} template @param {Record<string, unknown>} values */
  const fill = (template, values) => template.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));

  /** @param {State} state @param {Choice} choice */
  const framed = (state, choice) => {
    const layer = state.layers[choice.layer];
    const [feature, value, answers, y, x, left, top, right, bottom] = layer.frames[choice.photograph][choice.feature];
    const field = { left, top, right, bottom, width: right - left, height: bottom - top };
    return { layer, feature, value, answers, y, x, field, subject: state.subjects[choice.photograph] };
  };

  /** The five pictures of a choice as canvases. @param {State} state @param {Choice} choice */
  async function panels(state, choice) {
    const { layer, field } = framed(state, choice);
    const [photographs, maps, closeups] = await Promise.all([state.photographs, layer.maps, layer.closeups].map(sprite));
    const square = cut(photographs, choice.photograph * state.side, 0, state.side, state.side);
    const [rows, columns] = layer.grid;
    const map = cut(maps, choice.feature * columns, choice.photograph * rows, columns, rows);
    const [high, wide] = layer.cell;
    const column = choice.rule * layer.frames[choice.photograph].length + choice.feature;
    const closeup = cut(closeups, column * wide, choice.photograph * high, field.width, field.height);
    const { canvas: projection, context } = canvasOf(state.side, state.side);
    context.fillStyle = `rgb(${state.grey},${state.grey},${state.grey})`;
    context.fillRect(0, 0, state.side, state.side);
    context.drawImage(closeup, field.left, field.top);
    const patch = cut(square, field.left, field.top, field.width, field.height);
    return { photograph: square, projection, map, patch, closeup };
  }

  /** What is shown, in words. @param {State} state @param {Choice} choice */
  function says(state, choice) {
    const { layer, feature, value, answers, y, x, field, subject } = framed(state, choice);
    return fill(state.says[answers ? 0 : 1], {
      title: subject.title, layer: layer.name, feature, value, row: y, column: x,
      rows: layer.grid[0], columns: layer.grid[1], height: field.height, width: field.width,
      side: state.side, rule: state.rules[choice.rule][1],
    });
  }

  /** Make the markup show the choice. @param {HTMLElement} root @param {State} state @param {Choice} choice */
  function draw(root, state, choice, /** @type {Record<string, HTMLCanvasElement>} */ pictures) {
    const { layer, feature, answers, y, x, field, subject } = framed(state, choice);
    for (const [name, picture] of Object.entries(pictures)) {
      const panel = find(root, `[data-panel="${name}"]`, HTMLElement);
      const image = find(panel, "img", HTMLImageElement);
      const caption = fill(state.captions[name], { feature });
      image.src = picture.toDataURL();
      image.alt = name === "photograph" ? subject.alt : caption;
      image.classList.toggle("zf-crisp", Math.max(picture.width, picture.height) < state.crispBelow);
      find(panel, "figcaption span", HTMLElement).textContent = caption;
      const overlay = panel.querySelector("svg");
      if (overlay) {
        overlay.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
        overlay.toggleAttribute("hidden", !answers);
        const [left, top, width, height] = name === "map" ? [x, y, 1, 1] : [field.left, field.top, field.width, field.height];
        for (const rect of overlay.querySelectorAll("rect")) {
          for (const [key, value] of Object.entries({ x: left, y: top, width, height })) rect.setAttribute(key, `${value}`);
        }
      }
    }
    find(root, "figcaption small", HTMLElement).textContent = layer.path;
    find(root, ".zf-guesses ol", HTMLElement).innerHTML = subject.guesses; // escaped by Python
    find(root, ".zf-credit", HTMLElement).textContent = subject.credit;
    find(root, ".zf-says", HTMLElement).textContent = says(state, choice);
  }

  /** The five pictures in a row, as large as `contact_sheet` of Python makes them.
   *  @param {State} state @param {Choice} choice @param {Record<string, HTMLCanvasElement>} pictures */
  function contactSheet(state, choice, pictures, side = 448, gap = 16) {
    const { field, answers } = framed(state, choice);
    const { canvas, context } = canvasOf(5 * side + 4 * gap, side);
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    Object.entries(pictures).forEach(([name, picture], n) => {
      const x0 = n * (side + gap);
      const scale = side / Math.max(picture.width, picture.height);
      const [width, height] = [picture.width * scale, picture.height * scale];
      context.fillStyle = `rgb(${state.grey},${state.grey},${state.grey})`;
      context.fillRect(x0, 0, side, side);
      context.imageSmoothingEnabled = Math.max(picture.width, picture.height) >= state.crispBelow;
      context.imageSmoothingQuality = "high";
      context.drawImage(picture, x0 + (side - width) / 2, (side - height) / 2, width, height);
      if (answers && (name === "photograph" || name === "projection")) {
        for (const [colour, line] of /** @type {[string, number][]} */ ([["black", 6], ["#e69f00", 2]])) {
          context.strokeStyle = colour;
          context.lineWidth = line;
          context.strokeRect(x0 + field.left * scale + 3, field.top * scale + 3, field.width * scale - 6, field.height * scale - 6);
        }
      }
    });
    return canvas;
  }

  /** @template {Element} T @param {Element} root @param {string} selector @param {new () => T} kind @returns {T} */
  function find(root, selector, kind) {
    const element = root.querySelector(selector);
    if (!(element instanceof kind)) throw new Error(`the explorer's markup has no ${selector}`);
    return element;
  }

  /** Offer the features of the chosen photograph and layer. @param {HTMLSelectElement} select @param {Numbers[]} frames */
  function offer(select, frames) {
    select.replaceChildren(...frames.map((numbers) => new Option(numbers[9], `${numbers[0]}`)));
  }

  /** @param {string} text */
  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Pages from disk may not write to the clipboard: select a hidden text and copy that.
      const area = document.createElement("textarea");
      area.value = text;
      area.style.cssText = "position:fixed;inset-block-start:0;opacity:0";
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      if (!done) throw new Error("the browser refused to copy");
    }
  }

  /** @param {HTMLElement} root */
  function start(root) {
    root.dataset.on = "";
    /** @type {State} */
    const state = JSON.parse(find(root, 'script[type="application/json"]', HTMLScriptElement).text);
    const select = (/** @type {string} */ name) => find(root, `[data-choice="${name}"]`, HTMLSelectElement);
    const menus = { photograph: select("photograph"), layer: select("layer"), feature: select("feature"), rule: select("rule") };
    const done = find(root, ".zf-done", HTMLElement);
    for (const menu of Object.values(menus)) {
      // A browser may restore an older choice on reload, while the pictures are the first ones again.
      menu.selectedIndex = Array.from(menu.options).findIndex((option) => option.defaultSelected);
    }

    /** @returns {Choice} */
    const chosen = () => ({
      photograph: menus.photograph.selectedIndex,
      layer: menus.layer.selectedIndex,
      feature: menus.feature.selectedIndex,
      rule: menus.rule.selectedIndex,
    });
    let latest = 0;
    async function show() {
      const turn = ++latest;
      const choice = chosen();
      done.textContent = "";
      try {
        const pictures = await panels(state, choice);
        if (turn === latest) draw(root, state, choice, pictures); // a later choice has overtaken this one
      } catch (problem) {
        done.textContent = `This picture cannot be shown: ${problem instanceof Error ? problem.message : problem}`;
      }
    }
    const again = () => {
      const { photograph, layer } = chosen();
      offer(menus.feature, state.layers[layer].frames[photograph]);
      void show();
    };
    menus.photograph.addEventListener("change", again);
    menus.layer.addEventListener("change", again);
    menus.feature.addEventListener("change", () => void show());
    menus.rule.addEventListener("change", () => void show());
    for (const button of root.querySelectorAll("button")) {
      button.addEventListener("click", async () => {
        const { length } = menus.feature;
        const choice = chosen();
        const { subject, layer, feature } = framed(state, choice);
        const [rule] = state.rules[choice.rule];
        try {
          if (button.dataset.step) {
            menus.feature.selectedIndex = (choice.feature + Number(button.dataset.step) + length) % length;
            await show();
          } else if (button.dataset.take === "picture") {
            const link = document.createElement("a");
            link.href = contactSheet(state, choice, await panels(state, choice)).toDataURL();
            link.download = `${subject.name} ${layer.name} feature ${feature} ${rule}`.replace(/[^\p{L}\p{N}.-]/gu, "-") + ".png";
            link.click();
            done.textContent = `Saved as ${link.download}.`;
          } else {
            await copy(fill(state.snippet, { pixels: subject.python, path: layer.path, feature, rule }));
            done.textContent = "Copied.";
          }
        } catch (problem) {
          done.textContent = `That did not work: ${problem instanceof Error ? problem.message : problem}`;
        }
      });
    }
    for (const control of root.querySelectorAll("select, button")) control.removeAttribute("disabled");
  }

  for (const root of document.querySelectorAll(".zf-explorer:not([data-on])")) {
    if (root instanceof HTMLElement) start(root);
  }
})();
