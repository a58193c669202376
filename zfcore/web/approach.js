// @ts-check
/* MathJax weighs two megabytes, and few pages begin with a formula: it comes when one draws near, or the reader stirs. */
(() => {
  const source = /** @type {HTMLScriptElement} */ (document.currentScript).dataset.brings ?? "";
  const stirs = ["beforeprint", "keydown", "pointerdown", "scroll", "touchstart", "wheel"];
  const near = new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) bring(); }, { rootMargin: "20%" });

  function bring() {
    near.disconnect();
    for (const stir of stirs) removeEventListener(stir, bring);
    const script = document.createElement("script");
    script.src = source;
    document.head.append(script);
  }

  for (const formula of document.querySelectorAll(".math")) near.observe(formula);
  for (const stir of stirs) addEventListener(stir, bring, { passive: true });
})();
