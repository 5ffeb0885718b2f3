/**
 * Put a text on the clipboard.
 *
 * A page that is served over plain http to another computer has no `navigator.clipboard`, and one that lost the
 * focus may not use it: then the old copy command is tried, which works only while a click is being handled.
 *
 * @param {string} text
 * @returns {Promise<boolean>} whether the text is on the clipboard
 */
export async function copyText(text) {
  if (navigator.clipboard?.writeText) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Refused (no focus, no permission): the copy command may still be allowed.
    }
  }
  return copyByCommand(text);
}

/**
 * @param {string} text
 * @returns {boolean}
 */
function copyByCommand(text) {
  const before = document.activeElement;
  const area = document.createElement("textarea");
  area.value = text;
  area.readOnly = true;
  area.style.cssText = "position:fixed;left:-1000px;top:0;opacity:0";
  document.body.append(area);
  area.select();
  try {
    return document.execCommand("copy");
  } finally {
    area.remove();
    if (before instanceof HTMLElement) before.focus({ preventScroll: true });
  }
}

/**
 * A button that copies and says for a moment how that went.
 *
 * @param {() => string} getText
 * @param {AbortSignal} signal ends its listeners
 * @returns {HTMLButtonElement}
 */
export function createCopyButton(getText, signal) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "promptgen-button promptgen-copy";
  button.textContent = "Copy";
  button.title = "Copy the text to the clipboard";
  let timer = 0;
  button.addEventListener(
    "click",
    async () => {
      const copied = await copyText(getText());
      button.textContent = copied ? "Copied" : "Not allowed: select the text, then Ctrl+C";
      clearTimeout(timer);
      timer = setTimeout(() => (button.textContent = "Copy"), 1500);
    },
    { signal },
  );
  signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  return button;
}
