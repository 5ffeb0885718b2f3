/** Add the pack's style sheet to the page, once. Its colours are the variables of ComfyUI's themes. */
export function addStyleSheet() {
  const href = new URL("./promptgen.css", import.meta.url).href;
  if (document.querySelector(`link[href="${href}"]`)) return;
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = href;
  document.head.append(link);
}
