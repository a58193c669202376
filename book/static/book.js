// Paper is white: a page that is read in the dark is printed in the light, and is dark again afterwards.
addEventListener("beforeprint", () => {
  const page = document.documentElement;
  if (page.dataset.theme !== "dark") return;
  page.dataset.theme = "light";
  addEventListener("afterprint", () => { page.dataset.theme = "dark"; }, { once: true });
});

// A drawing that scrolls inside its own box on a phone is one that the keyboard can reach and scroll.
const reachable = () => {
  const box = document.getElementById("fig-architecture");
  if (!box) return;
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
};
addEventListener("load", reachable);
addEventListener("resize", reachable);
