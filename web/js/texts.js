/** The name of the node property that keeps a node's text, in the saved workflow and over a reload of the page. */
export const TEXT_PROPERTY = "promptgen_text";

/**
 * The texts in what a node sent to the browser, one per frame; null where it sent none.
 *
 * @param {{text?: string | string[]} | null | undefined} output
 * @returns {string[] | null}
 */
export function textsOf(output) {
  const text = output?.text;
  if (typeof text === "string") return [text];
  return Array.isArray(text) ? text.map(String) : null;
}

/**
 * The texts as one: a single text as it is, several under headings "1 / 5".
 *
 * @param {string[]} texts
 * @returns {string}
 */
export function joinTexts(texts) {
  if (texts.length <= 1) return texts[0] ?? "";
  return texts.map((text, index) => `${index + 1} / ${texts.length}\n${text}`).join("\n\n");
}
