import { createAnswer, make } from "./answers.js";

/**
 * The pictures of the page: how they come in, and one card for each.
 *
 * @typedef {import("./server.js").Answer} Answer
 */

const KNOWN_ENDINGS = /\.(avif|bmp|gif|jfif|jpe?g|png|tiff?|webp)$/i;

/**
 * The files that may be pictures, and what to say about the others. Whether they can be read is the server's to say.
 *
 * @param {{name: string, type: string, folder?: boolean}[]} files
 * @returns {{taken: number[], refused: string[]}} positions in `files`, and sentences
 */
export function sortFiles(files) {
  const taken = [];
  const refused = [];
  for (const [index, { name, type, folder }] of files.entries()) {
    if (folder) refused.push(`${name} is a folder: choose the pictures in it, or use promptgen folder.`);
    else if (type.startsWith("image/") || KNOWN_ENDINGS.test(name)) taken.push(index);
    else refused.push(`${name} is not a picture.`);
  }
  return { taken, refused };
}

/**
 * Take what is chosen, dropped anywhere or pasted.
 *
 * @param {HTMLInputElement} input
 * @param {(files: File[], refused: string[]) => void} onFiles
 */
export function watchForFiles(input, onFiles) {
  const take = (/** @type {{file: File, folder?: boolean}[]} */ found) => {
    const { taken, refused } = sortFiles(found.map(({ file, folder }) => ({ name: file.name, type: file.type, folder })));
    onFiles(taken.map((index) => found[index].file), refused);
  };
  input.addEventListener("change", () => {
    take([...(input.files ?? [])].map((file) => ({ file })));
    input.value = ""; // the same file may be chosen again
  });
  document.addEventListener("paste", (event) => {
    const files = filesOf(event.clipboardData);
    if (!files.length) return; // a text, for whatever field has the focus
    event.preventDefault();
    take(files);
  });
  const over = (/** @type {boolean} */ on) => document.body.classList.toggle("dragging", on);
  document.addEventListener("dragover", (event) => {
    if (isTextForField(event)) return;
    event.preventDefault();
    over(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget === null && over(false));
  document.addEventListener("drop", (event) => {
    over(false);
    if (isTextForField(event)) return;
    event.preventDefault(); // the browser would leave the page for what was dropped
    const files = filesOf(event.dataTransfer);
    if (files.length) take(files);
    else onFiles([], ["That was no file. Save the picture first, or copy it and paste it here."]);
  });
}

/** @param {DragEvent} event */
function isTextForField({ target, dataTransfer }) {
  return target instanceof HTMLInputElement && !dataTransfer?.types.includes("Files");
}

/**
 * @param {DataTransfer|null} transfer
 * @returns {{file: File, folder?: boolean}[]}
 */
function filesOf(transfer) {
  return [...(transfer?.items ?? [])].flatMap((item) => {
    const file = item.getAsFile();
    return file ? [{ file, folder: item.webkitGetAsEntry()?.isDirectory }] : [];
  });
}

let created = 0;

/** One picture: its preview, how far it is, and what is written about it. */
export class PictureCard {
  /** What was asked when it was last answered. */
  answeredAsk = "";

  /**
   * @param {File} file
   * @param {(card: PictureCard) => void} onRemove
   */
  constructor(file, onRemove) {
    this.file = file;
    this.url = URL.createObjectURL(file);
    this.element = make("article", "card");
    const title = make("h3", "", file.name);
    title.id = `picture-${++created}`;
    this.element.setAttribute("aria-labelledby", title.id);

    this.stage = make("div", "stage");
    const preview = make("img", "");
    preview.alt = "";
    preview.decoding = "async";
    preview.loading = "lazy";
    preview.addEventListener("error", () => this.stage.classList.add("no-preview"), { once: true });
    preview.src = this.url;
    this.stage.append(preview, make("p", "hint no-preview-text", "This browser cannot show it."));
    const frame = make("div", "frame");
    frame.append(this.stage);

    this.size = make("span", "hint");
    const remove = make("button", "quiet remove", "×");
    remove.type = "button";
    remove.title = "Remove";
    remove.setAttribute("aria-label", `Remove ${file.name}`);
    remove.addEventListener("click", () => onRemove(this));
    const head = make("div", "card-head");
    head.append(title, this.size, remove);
    this.state = make("p", "state");
    this.answers = make("div", "answers");
    const words = make("div", "words");
    words.append(head, this.state, this.answers);
    this.element.append(frame, words);
    this.#showRest();
  }

  /**
   * @param {"new"|"waiting"|"busy"|"failed"|"done"} state
   * @param {string} text
   */
  showState(state, text) {
    this.element.dataset.state = state;
    this.element.setAttribute("aria-busy", String(state === "busy"));
    this.state.textContent = text;
    this.state.hidden = !text;
  }

  /** Nobody asks about it any more: what an earlier run has written is still there. */
  giveUp() {
    if (["waiting", "busy"].includes(this.element.dataset.state ?? "")) this.#showRest();
  }

  #showRest() {
    if (this.answeredAsk) this.showState("done", "");
    else this.showState("new", "Not captioned yet.");
  }

  /**
   * @param {Answer} answer
   * @param {string} ask
   */
  showAnswer(answer, ask) {
    this.size.textContent = `${answer.width} × ${answer.height}`;
    this.stage.style.setProperty("--ratio", `${answer.width} / ${answer.height}`);
    this.answers.replaceChildren();
    for (const drawing of this.stage.querySelectorAll(".drawing")) drawing.remove();
    let drawn = true; // the first that has regions
    for (const result of answer.results) {
      this.answers.append(createAnswer(result, answer, this.stage, drawn));
      drawn &&= !result.regions?.length;
    }
    this.answeredAsk = ask;
    this.element.classList.add("answered");
    this.#showRest();
  }

  dispose() {
    URL.revokeObjectURL(this.url);
    this.element.remove();
  }
}
