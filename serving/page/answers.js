import { plainName } from "./choices.js";
import { drawRegions, regionColours } from "./regions.js";

/**
 * What the server wrote, as it is shown.
 *
 * @typedef {import("./server.js").Answer} Answer
 * @typedef {import("./server.js").Region} Region
 * @typedef {import("./server.js").Result} Result
 */

/**
 * @param {Result} result
 * @param {Answer} answer that it belongs to
 * @param {HTMLElement} stage over the picture, where regions go
 * @param {boolean} drawn whether its regions are on the picture to begin with
 */
export function createAnswer(result, answer, stage, drawn) {
  const name = plainName(result.instruction);
  const head = make("div", "answer-head");
  const title = make("h4", "", name);
  title.title = result.instruction;
  head.append(title, copyButton("Copy", name, () => result.text));
  const element = make("section", "answer");
  element.dataset.instruction = result.instruction;
  element.append(head, ...parts(result, answer, stage, drawn));
  if (result.unmet) element.append(make("p", "hint", `Fails what was asked of it: ${result.unmet}.`));
  if (result.truncated) {
    element.append(make("p", "hint", "Cut off: it reached the longest answer, which Options can raise."));
  }
  return element;
}

/**
 * @param {Result} result
 * @param {Answer} answer
 * @param {HTMLElement} stage
 * @param {boolean} drawn
 * @returns {HTMLElement[]}
 */
function parts(result, answer, stage, drawn) {
  const { text, prose, tags, analysis, regions } = result;
  if (prose !== undefined && tags !== undefined) {
    const mixed = [
      ...(prose ? [part("Prose", prose)] : []),
      ...(tags.length ? [part("Tags", tags.join(", "))] : []),
      ...(analysis ? [analysisTable(analysis)] : []),
    ];
    return mixed.length ? mixed : [textOf(text)];
  }
  if (analysis?.subjects.length) return [analysisTable(analysis)];
  if (regions?.length) return [regionList(result, regions, answer, stage, drawn)];
  return [textOf(text)];
}

/** @param {string} text */
function textOf(text) {
  return text ? make("p", "text", text) : make("p", "hint", "Nothing found.");
}

/**
 * @param {string} label
 * @param {string} text
 */
function part(label, text) {
  const element = make("div", "part");
  const head = make("div", "part-head");
  head.append(make("h5", "", label), copyButton("Copy", label, () => text));
  element.append(head, make("p", "text", text));
  return element;
}

/** @param {NonNullable<Result["analysis"]>} analysis */
function analysisTable({ subjects, unparsed }) {
  const table = make("table", "analysis");
  table.append(make("caption", "unseen", "Analysis"));
  if (unparsed) table.appendChild(make("tbody", "")).append(row("", unparsed));
  subjects.forEach((fields, index) => {
    const body = table.appendChild(make("tbody", ""));
    if (subjects.length > 1) {
      const heading = make("th", "subject", `Subject ${index + 1}`);
      heading.colSpan = 2;
      heading.scope = "rowgroup";
      body.appendChild(make("tr", "")).append(heading);
    }
    for (const [field, value] of Object.entries(fields)) body.append(row(field.replaceAll("_", " "), value));
  });
  return table;
}

/**
 * @param {string} field
 * @param {string} value
 */
function row(field, value) {
  const line = make("tr", "");
  const name = make("th", "", field);
  name.scope = "row";
  line.append(name, make("td", "", value));
  return line;
}

/**
 * @param {Result} result
 * @param {Region[]} regions
 * @param {Answer} answer
 * @param {HTMLElement} stage
 * @param {boolean} drawn
 */
function regionList(result, regions, answer, stage, drawn) {
  const colours = regionColours(regions);
  const drawing = drawRegions(regions, colours, answer);
  stage.append(drawing);
  const element = make("div", "part");
  const head = make("div", "part-head");
  const show = make("label", "check");
  const box = make("input", "");
  box.type = "checkbox";
  box.addEventListener("change", () => (drawing.hidden = !box.checked));
  box.checked = drawn;
  drawing.hidden = !drawn;
  show.append(box, make("span", "hint", "Show on the picture"));
  head.append(show, copyButton("Copy JSON", `${plainName(result.instruction)} as JSON`, () => JSON.stringify(regions)));
  const list = make("ul", "regions");
  regions.forEach((region, index) => {
    const item = list.appendChild(make("li", ""));
    item.style.setProperty("--colour", colours[index]);
    item.append(make("span", "region-label", region.label || "no label"), make("span", "hint", placeOf(region)));
    const shapes = drawing.querySelectorAll(`[data-region="${index}"]`);
    for (const [event, on] of /** @type {[string, boolean][]} */ ([["pointerenter", true], ["pointerleave", false]])) {
      item.addEventListener(event, () => shapes.forEach((shape) => shape.classList.toggle("pointed", on)));
    }
  });
  element.append(head, list);
  return element;
}

/**
 * Its box in whole pixels, and how sure the model is.
 *
 * @param {Region} region
 */
export function placeOf({ box, score }) {
  const place = box ? box.map(Math.round).join(", ") : "";
  return score === undefined ? place : `${place} (${Math.round(100 * score)} %)`;
}

/**
 * @param {string} label
 * @param {string} what for people who do not see where the button stands
 * @param {() => string} getText
 */
function copyButton(label, what, getText) {
  const button = make("button", "quiet copy", label);
  button.type = "button";
  button.setAttribute("aria-label", `${label} ${what}`);
  let timer = 0;
  button.addEventListener("click", async () => {
    button.textContent = (await copyText(getText())) ? "Copied" : "Not allowed: select the text, then Ctrl+C";
    clearTimeout(timer);
    timer = setTimeout(() => (button.textContent = label), 1500);
  });
  button.setAttribute("aria-live", "polite");
  return button;
}

/**
 * A page that came over plain http from another computer has no `navigator.clipboard`: there it is done by the
 * old copy command, which works while a click is being handled.
 *
 * @param {string} text
 * @returns {Promise<boolean>} whether the text is on the clipboard
 */
async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Refused: the copy command may still be allowed.
    }
  }
  const before = /** @type {HTMLElement} */ (document.activeElement);
  const area = make("textarea", "unseen");
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  before.focus({ preventScroll: true });
  return copied;
}

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {string} className
 * @param {string} [text]
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
