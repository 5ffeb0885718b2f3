/**
 * The form: which model, which instructions, which options.
 *
 * @typedef {import("./server.js").Ask} Ask
 * @typedef {import("./server.js").Instruction} Instruction
 * @typedef {import("./server.js").ServedModel} ServedModel
 */

/** @type {Record<string, string>} those whose names say little */
const PLAIN_NAMES = { OD: "Object detection", DOCVQA: "Document question" };
const LIKE_NUMBERS = ["num_beams", "max_new_tokens"];
const WHILE_SAMPLING = ["temperature", "seed"];
const LIKE_TEXT = ["language", "preset", "prefix", "exclude", "underscores"];
const WITH_LANGUAGES = ["paligemma"]; // families

/**
 * `MIXED_CAPTION` as people write it: "Mixed caption".
 *
 * @param {string} name
 */
export function plainName(name) {
  if (name in PLAIN_NAMES) return PLAIN_NAMES[name];
  const words = name.split("_").map((word) => (word === "OCR" ? word : word.toLowerCase()));
  return words[0].charAt(0).toUpperCase() + words.join(" ").slice(1);
}

/**
 * The asks that a choice amounts to: a text and a region cannot go in one.
 *
 * @param {string} model
 * @param {Instruction[]} chosen
 * @param {Ask["options"]} options
 * @param {{text: string, region: string}} inputs
 * @returns {Ask[]}
 */
export function planAsks(model, chosen, options, inputs) {
  const about = (/** @type {Instruction[]} */ some, /** @type {string} */ input) => ({
    model,
    instructions: some.map(({ name }) => name),
    options: input ? { ...options, text_input: input } : options,
  });
  const rest = chosen.filter(({ input }) => input !== "region");
  const regional = chosen.filter(({ input }) => input === "region");
  const text = rest.some(({ input }) => input === "text") ? inputs.text : "";
  return [about(rest, text), about(regional, inputs.region)].filter((ask) => ask.instructions.length);
}

/**
 * Only what was filled in: for the rest the server has its own defaults.
 *
 * @param {FormData} form
 * @returns {Ask["options"]}
 */
export function readOptions(form) {
  /** @type {Ask["options"]} */
  const options = {};
  const sampling = form.has("do_sample") || form.has("preset");
  for (const name of sampling ? [...LIKE_NUMBERS, ...WHILE_SAMPLING] : LIKE_NUMBERS) {
    const value = String(form.get(name) ?? "");
    if (value) options[name] = Number(value);
  }
  if (form.has("do_sample")) options.do_sample = true;
  for (const name of LIKE_TEXT) {
    const value = String(form.get(name) ?? "");
    if (value.trim()) options[name] = value;
  }
  return options;
}

export class Choices {
  /** @type {ServedModel[]} */ #models = [];
  /** @type {Instruction[]} */ #instructions = [];

  /**
   * @param {HTMLFormElement} form
   * @param {() => void} onChange
   */
  constructor(form, onChange) {
    this.form = form;
    this.onChange = onChange;
    this.model = /** @type {HTMLSelectElement} */ (form.querySelector("#model"));
    this.model.addEventListener("change", () => this.#offerInstructions());
    form.addEventListener("input", () => this.#changed());
    // The browser points at what is filled in wrongly, and cannot where that is folded away.
    form.addEventListener("invalid", ({ target }) => openAround(/** @type {HTMLElement} */ (target)), true);
  }

  /**
   * @param {ServedModel[]} models
   * @param {Instruction[]} instructions
   */
  offer(models, instructions) {
    this.#models = models;
    this.#instructions = instructions;
    const before = this.model.value;
    this.model.replaceChildren(...models.map(({ id }) => new Option(id, id)));
    if (models.some(({ id }) => id === before)) this.model.value = before;
    this.#part("#model-choice").hidden = models.length < 2;
    this.#offerInstructions();
  }

  /** The instructions that are ticked, in the table's order. */
  get chosen() {
    const ticked = new Set(new FormData(this.form).getAll("instruction"));
    return this.#instructions.filter(({ name }) => ticked.has(name));
  }

  /** @returns {Ask[]} */
  asks() {
    const inputs = { text: this.#input("#text").value, region: this.#input("#region").value };
    return planAsks(this.model.value, this.chosen, readOptions(new FormData(this.form)), inputs);
  }

  /** Those that the model can be asked, trained ones first. What was ticked stays so. */
  #offerInstructions() {
    const model = this.#models.find(({ id }) => id === this.model.value);
    const trained = new Set(model?.instructions);
    const possible = this.#instructions.filter(({ families }) => model && families.includes(model.family));
    const known = possible.filter(({ name }) => trained.has(name));
    const others = possible.filter(({ name }) => !trained.has(name));
    const usual = known.find(({ name }) => name === model?.defaultInstruction) ?? known[0] ?? others[0];
    const kept = this.chosen.filter((one) => possible.includes(one));
    const before = new Set(kept.map(({ name }) => name));
    const ticked = before.size ? before : new Set(usual && [usual.name]);
    const rows = (/** @type {Instruction[]} */ some) => some.map((one) => instructionRow(one, ticked.has(one.name)));
    this.#part("#known").replaceChildren(...rows(known));
    this.#part("#others").replaceChildren(...rows(others));
    const speaks = WITH_LANGUAGES.includes(model?.family ?? "");
    this.#part("#language-field").hidden = !speaks;
    this.#input("[name=language]").disabled = !speaks;
    const more = /** @type {HTMLDetailsElement} */ (this.#part("#more"));
    more.hidden = !others.length;
    more.open ||= others.some(({ name }) => before.has(name));
    this.#changed();
  }

  #changed() {
    const { chosen } = this;
    for (const kind of ["text", "region"]) {
      const asked = chosen.filter(({ input }) => input === kind);
      this.#part(`#${kind}-field`).hidden = !asked.length;
      this.#input(`#${kind}`).required = asked.length > 0;
      if (kind === "text") this.#part("#text-hint").textContent = asked.map(({ summary }) => summary).join(" ");
    }
    const sampling = ["do_sample", "preset"].some((name) => this.#input(`[name=${name}]`).checked);
    this.#part("#sampling").hidden = !sampling;
    for (const name of WHILE_SAMPLING) this.#input(`[name=${name}]`).disabled = !sampling;
    this.onChange();
  }

  /**
   * @param {string} selector
   * @returns {HTMLElement}
   */
  #part(selector) {
    return /** @type {HTMLElement} */ (this.form.querySelector(selector));
  }

  /**
   * @param {string} selector
   * @returns {HTMLInputElement}
   */
  #input(selector) {
    return /** @type {HTMLInputElement} */ (this.#part(selector));
  }
}

/** @param {HTMLElement} field */
function openAround(field) {
  field.closest("details")?.setAttribute("open", "");
}

/**
 * @param {Instruction} instruction
 * @param {boolean} ticked
 */
function instructionRow({ name, summary }, ticked) {
  const row = document.createElement("label");
  row.className = "check";
  row.title = name;
  const box = document.createElement("input");
  box.type = "checkbox";
  box.name = "instruction";
  box.value = name;
  box.checked = ticked;
  const words = document.createElement("span");
  const hint = document.createElement("span");
  hint.className = "hint";
  hint.id = `about-${name}`;
  hint.textContent = summary;
  box.setAttribute("aria-label", plainName(name));
  box.setAttribute("aria-describedby", hint.id);
  words.append(plainName(name), " ", hint);
  row.append(box, words);
  return row;
}
