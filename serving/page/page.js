import { Choices } from "./choices.js";
import { PictureCard, watchForFiles } from "./pictures.js";
import { RequestError, getAnswer, getOffer, hasKey, useKey } from "./server.js";

/**
 * The page as a whole: pictures come in, a run asks the server about them, cards show what it says.
 *
 * @typedef {import("./server.js").Ask} Ask
 */

const AT_A_TIME = 2;

/**
 * @param {string} id
 * @returns {any}
 */
const part = (id) => document.getElementById(id);

/** @type {PictureCard[]} */
let cards = [];
/** @type {AbortController|null} */
let running = null;
let offered = false;
const choices = new Choices(part("choices"), update);

/** Buttons say what they would do now. */
function update() {
  const count = todo().length;
  part("caption").disabled = !offered || !count || !choices.chosen.length || running !== null;
  const again = cards.length > 0 && cards.every(isAnswered);
  part("caption").textContent = count ? `Caption ${pictures(count)}${again ? " again" : ""}` : "Caption";
  part("remove-all").hidden = cards.length < 2 || running !== null;
  part("nothing").hidden = cards.length > 0;
  document.body.classList.toggle("has-pictures", cards.length > 0);
}

/** @param {number} count */
function pictures(count) {
  return count === 1 ? "1 picture" : `${count} pictures`;
}

/** @param {PictureCard} card whether it shows the answers to what is chosen now */
function isAnswered(card) {
  return card.answeredAsk === JSON.stringify(choices.asks());
}

/** The pictures without answers to what is chosen now; all of them if there is none. */
function todo() {
  const open = cards.filter((card) => !isAnswered(card));
  return open.length ? open : cards;
}

/**
 * @param {File[]} files
 * @param {string[]} refused
 */
function addPictures(files, refused) {
  part("refused").textContent = refused.join(" ");
  const added = files.map((file) => new PictureCard(file, removePicture));
  cards.push(...added);
  part("pictures").append(...added.map(({ element }) => element));
  if (added.length && !running) part("status").textContent = `${pictures(added.length)} added`;
  update();
}

/** @param {PictureCard} card */
function removePicture(card) {
  const next = cards[cards.indexOf(card) + 1] ?? cards.at(-2);
  cards = cards.filter((other) => other !== card);
  card.dispose();
  (next?.element.querySelector(".remove") ?? part("files")).focus();
  update();
}

/** @param {string} text what is wrong and what to do; nothing takes it away */
function showProblem(text, canTryAgain = false) {
  part("problem-text").textContent = text;
  part("problem").hidden = !text;
  part("try-again").hidden = !canTryAgain;
  if (text) part("problem").scrollIntoView({ block: "nearest" });
}

/** @param {unknown} error that keeps anything from being captioned */
function showFailure(error) {
  if (!(error instanceof RequestError)) throw error;
  if (error.status !== 401) return showProblem(error.message, error.status === 0);
  showProblem(hasKey() ? "The server does not accept this key." : "");
  part("key-form").hidden = false;
  part("key").focus();
}

/** Learn what there is to choose from. */
async function loadOffer() {
  showProblem("");
  try {
    const { models, instructions } = await getOffer();
    choices.offer(models, instructions);
    offered = true;
    part("model-name").textContent = models.length === 1 ? models[0].id : "";
    part("key-form").hidden = true;
    /** @type {HTMLElement} */ (document.querySelector("main")).hidden = false;
  } catch (error) {
    showFailure(error);
  }
  update();
}

/** Ask about every picture that has no answers yet, a few at a time. */
async function run() {
  const asks = choices.asks();
  const mine = todo();
  const ending = new AbortController();
  const count = { done: 0, failed: 0 };
  running = ending;
  showProblem("");
  for (const card of mine) card.showState("waiting", "Waiting.");
  const report = (/** @type {string} */ text) => {
    part("progress").max = mine.length;
    part("progress").value = count.done + count.failed;
    part("status").textContent = text;
  };
  report(`0 of ${mine.length} done`);
  showRunning(true);
  const waiting = [...mine];
  const work = async () => {
    for (let card; !ending.signal.aborted && (card = waiting.shift()); ) {
      if (!cards.includes(card)) continue; // removed meanwhile
      const outcome = await captionPicture(card, asks, ending);
      if (outcome) count[outcome]++;
      report(`${count.done} of ${mine.length} done`);
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_A_TIME }, work));
  } finally {
    for (const card of mine) card.giveUp();
    running = null;
    report(closingWords(count, mine.length));
    showRunning(false);
  }
}

/**
 * @param {PictureCard} card
 * @param {Ask[]} asks
 * @param {AbortController} ending of the run, which ends where the next picture would fare no better
 * @returns {Promise<"done"|"failed"|null>} null if it has not come to that
 */
async function captionPicture(card, asks, ending) {
  const onWait = (/** @type {number} */ seconds) =>
    card.showState("busy", `The server has much to do. Trying again in ${seconds} s.`);
  try {
    const answers = [];
    for (const ask of asks) {
      card.showState("busy", "Captioning…");
      answers.push(await getAnswer(ask, card.file, ending.signal, onWait));
    }
    card.showAnswer({ ...answers[0], results: answers.flatMap(({ results }) => results) }, JSON.stringify(asks));
    return "done";
  } catch (error) {
    if (ending.signal.aborted) return null;
    if (!(error instanceof RequestError)) throw error;
    if (error.concernsAll) {
      ending.abort();
      showFailure(error);
      return null;
    }
    card.showState("failed", error.aboutPicture);
    return "failed";
  }
}

/**
 * @param {{done: number, failed: number}} count
 * @param {number} all
 */
function closingWords({ done, failed }, all) {
  const words = [`${done} of ${all} done`];
  if (failed) words.push(`${failed} failed`);
  if (done + failed < all) words.push(`${all - done - failed} not captioned`);
  return `${words.join(", ")}.`;
}

/** @param {boolean} on whether a run goes on; the focus goes from its button to the one that ends it, and back */
function showRunning(on) {
  const focused = document.activeElement === part(on ? "caption" : "cancel");
  part("cancel").hidden = part("progress").hidden = !on;
  update();
  if (focused) part(on ? "cancel" : "caption").focus();
}

watchForFiles(part("files"), addPictures);
part("choices").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  if (!part("caption").disabled) run();
});
part("cancel").addEventListener("click", () => running?.abort());
part("remove-all").addEventListener("click", () => {
  for (const card of cards) card.dispose();
  cards = [];
  part("status").textContent = "";
  part("files").focus();
  update();
});
part("try-again").addEventListener("click", loadOffer);
part("key-form").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  useKey(part("key").value.trim());
  loadOffer();
});
update();
loadOffer();
