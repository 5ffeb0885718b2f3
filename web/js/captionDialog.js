import { copyText, createCopyButton } from "./clipboard.js";

/**
 * The small window of one caption request. It leaves the canvas usable: a caption may wait in the queue for long.
 *
 * @typedef {object} DialogActions
 * @property {(checkpoint: string) => void} onAgain caption once more with this checkpoint
 * @property {() => void} onCancel
 * @property {() => string} onAdd add a Tagger; returns what to tell the user
 */

export class CaptionDialog {
  #ending = new AbortController();
  #busy = false;

  /**
   * @param {string} heading
   * @param {string[]} images addresses, shown small
   * @param {string[]} checkpoints to choose from
   * @param {DialogActions} actions
   */
  constructor(heading, images, checkpoints, actions) {
    const { signal } = this.#ending;
    this.actions = actions;
    this.element = document.createElement("dialog");
    this.element.className = "promptgen-dialog";
    this.element.setAttribute("aria-label", heading);

    const title = make("h3", "promptgen-heading", heading);
    const pictures = make("div", "promptgen-pictures");
    for (const address of images.slice(0, 4)) {
      const picture = document.createElement("img");
      picture.src = address;
      picture.alt = "";
      pictures.append(picture);
    }
    this.status = make("p", "promptgen-status");
    this.status.setAttribute("role", "status");
    const head = make("div", "promptgen-head");
    const words = make("div", "promptgen-words");
    words.append(title, this.status);
    head.append(pictures, words);

    this.error = make("div", "promptgen-error");
    this.error.setAttribute("role", "alert");

    this.area = document.createElement("textarea");
    this.area.className = "comfy-multiline-input promptgen-text";
    this.area.readOnly = true;
    this.area.spellcheck = false;
    this.area.setAttribute("aria-label", "Caption");

    this.checkpoint = document.createElement("select");
    this.checkpoint.className = "promptgen-select";
    this.checkpoint.title = "Checkpoint that captions from the right-click menu; the choice is remembered";
    this.checkpoint.setAttribute("aria-label", "Checkpoint");
    this.#offer(checkpoints);
    this.again = this.#button("Again", "Caption once more with this checkpoint", () =>
      actions.onAgain(this.checkpoint.value),
    );
    const model = make("div", "promptgen-row");
    model.append(this.checkpoint, this.again);

    this.copy = createCopyButton(() => this.area.value, signal);
    this.add = this.#button("Add PromptGen Tagger", "Add a Tagger wired to this image", () => {
      this.status.textContent = actions.onAdd();
    });
    this.leave = this.#button("Close", "Close this window (Esc)", () => this.#leave());
    const row = make("div", "promptgen-row");
    row.append(this.copy, this.add, this.leave);

    this.element.append(head, this.error, this.area, model, row);
    this.element.addEventListener(
      "keydown",
      (event) => {
        if (event.key !== "Escape") return;
        event.stopPropagation(); // not for the canvas as well
        this.#leave();
      },
      { signal },
    );
    stack().append(this.element);
    this.element.show();
    this.leave.focus({ preventScroll: true });
  }

  /** @param {string[]} checkpoints */
  #offer(checkpoints) {
    for (const name of checkpoints) this.checkpoint.append(new Option(name, name));
  }

  /**
   * @param {string} label
   * @param {string} tooltip
   * @param {() => void} onClick
   */
  #button(label, tooltip, onClick) {
    const button = make("button", "promptgen-button", label);
    button.type = "button";
    button.title = tooltip;
    button.addEventListener(
      "click",
      () => {
        try {
          onClick();
        } catch (error) {
          this.showError(error.message);
        }
      },
      { signal: this.#ending.signal },
    );
    return button;
  }

  /**
   * @param {string} status
   * @param {{busy?: boolean, error?: string}} more
   */
  #show(status, { busy = false, error = "" } = {}) {
    this.#busy = busy;
    this.status.textContent = status;
    this.error.textContent = error;
    this.error.hidden = !error;
    this.area.hidden = !this.area.value;
    this.leave.textContent = busy ? "Cancel" : "Close";
    this.again.disabled = this.checkpoint.disabled = busy;
    this.copy.disabled = busy || !this.area.value;
  }

  /**
   * @param {string} text what is going on
   * @param {string} checkpoint with which
   */
  showBusy(text, checkpoint) {
    this.checkpoint.value = checkpoint;
    if (this.checkpoint.value !== checkpoint) {
      this.#offer([checkpoint]); // one that was chosen elsewhere and is no longer there
      this.checkpoint.value = checkpoint;
    }
    this.area.value = "";
    this.#show(text, { busy: true });
  }

  /** @param {string} text */
  async showResult(text) {
    this.area.value = text;
    this.#show("");
    const copied = await copyText(text);
    this.#show(copied ? "Copied to the clipboard." : "Press Copy to put it on the clipboard.");
  }

  /** @param {string} message */
  showError(message) {
    this.#show(this.area.value ? "" : "No caption.", { error: message });
  }

  #leave() {
    if (this.#busy) this.actions.onCancel();
    else this.close();
  }

  close() {
    this.#ending.abort();
    const place = this.element.parentElement;
    this.element.remove();
    if (!place?.childElementCount) place?.remove();
  }
}

/** Where the windows stand, one above the other. */
function stack() {
  let place = document.querySelector(".promptgen-stack");
  if (!place) {
    place = make("div", "promptgen-stack");
    document.body.append(place);
  }
  return place;
}

/**
 * @param {string} tag
 * @param {string} className
 * @param {string} [text]
 * @returns {any}
 */
function make(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
