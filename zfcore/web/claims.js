// @ts-check
/* The claims' filter: by verdict, section and words. Without it every row is shown. */

for (const root of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".zf-claims:not([data-on])"))) {
  root.dataset.on = "";
  const form = /** @type {HTMLFormElement} */ (root.querySelector("form"));
  const told = /** @type {HTMLElement} */ (root.querySelector('[role="status"]'));
  const rows = /** @type {HTMLElement[]} */ ([...root.querySelectorAll("tbody tr")]);
  const texts = rows.map((row) => (row.textContent ?? "").toLowerCase());
  const show = () => {
    const chosen = new FormData(form);
    const verdicts = chosen.getAll("verdict");
    const section = chosen.get("section");
    const words = `${chosen.get("words") ?? ""}`.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row, n) => {
      const { verdict = "", section: own } = row.dataset;
      const fits = verdicts.includes(verdict) && (!section || section === own);
      row.hidden = !(fits && words.every((word) => texts[n]?.includes(word)));
    });
    const count = rows.filter((row) => !row.hidden).length;
    told.textContent = `${count} of ${rows.length} claims`;
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(show));
  // Another page may lead to one claim, which a filter that the browser remembers shall not hide.
  addEventListener("hashchange", () => {
    const row = document.getElementById(location.hash.slice(1));
    if (row?.hidden && root.contains(row)) form.reset();
    setTimeout(() => row?.scrollIntoView());
  });
  form.hidden = false;
  show();
}
