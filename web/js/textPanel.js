import { createCopyButton } from "./clipboard.js";

/**
 * A read-only text with a Copy button, as it stands on a node.
 *
 * @typedef {object} TextPanel
 * @property {HTMLElement} element
 * @property {() => string} getText
 * @property {(text: string) => void} setText
 * @property {() => void} dispose ends every listener
 */

/**
 * @param {{processMouseWheel(event: Event): void, processMouseDown(event: Event): void,
 *          processMouseMove(event: Event): void, processMouseUp(event: Event): void}} canvas
 *   what the wheel and the middle button are passed on to: a text lies over the canvas and would stop zoom and pan
 * @returns {TextPanel}
 */
export function createTextPanel(canvas) {
  const ending = new AbortController();
  const { signal } = ending;

  const area = document.createElement("textarea");
  area.className = "comfy-multiline-input promptgen-text";
  area.readOnly = true;
  area.rows = 5;
  area.placeholder = "The text appears here when the node has run.";
  area.spellcheck = false;
  area.setAttribute("aria-label", "Text of this node");

  const bar = document.createElement("div");
  bar.className = "promptgen-bar";
  bar.append(createCopyButton(() => area.value, signal));

  const element = document.createElement("div");
  element.className = "promptgen-panel";
  element.append(area, bar);

  area.addEventListener(
    "wheel",
    (event) => {
      const scrolls = area.scrollHeight > area.clientHeight && !event.ctrlKey;
      if (scrolls && Math.abs(event.deltaY) >= Math.abs(event.deltaX)) {
        event.stopPropagation();
        return;
      }
      event.preventDefault();
      event.stopPropagation();
      canvas.processMouseWheel(event);
    },
    { signal, passive: false },
  );
  area.addEventListener("pointerdown", (event) => event.button === 1 && canvas.processMouseDown(event), { signal });
  area.addEventListener("pointermove", (event) => event.buttons & 4 && canvas.processMouseMove(event), { signal });
  area.addEventListener("pointerup", (event) => event.button === 1 && canvas.processMouseUp(event), { signal });

  return {
    element,
    getText: () => area.value,
    setText(text) {
      area.value = text;
      area.scrollTop = 0;
    },
    dispose: () => ending.abort(),
  };
}
