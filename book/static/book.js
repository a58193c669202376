// Paper is white: a page that is read in the dark is printed in the light, and is dark again afterwards.
addEventListener("beforeprint", () => {
  const page = document.documentElement;
  if (page.dataset.theme !== "dark") return;
  page.dataset.theme = "light";
  addEventListener("afterprint", () => { page.dataset.theme = "dark"; }, { once: true });
});
