/**
 * What the page asks of its server, and what went wrong in words.
 *
 * Addresses are relative to the page, which a proxy may have put below a path.
 *
 * @typedef {object} ServedModel
 * @property {string} id
 * @property {string[]} instructions that it was trained on
 * @property {string} family
 * @property {string} defaultInstruction
 *
 * @typedef {object} Instruction
 * @property {string} name
 * @property {string} summary
 * @property {"none"|"text"|"region"} input
 * @property {string[]} families of the models that can be asked it
 *
 * @typedef {object} Ask what is asked about every picture
 * @property {string} model
 * @property {string[]} instructions
 * @property {Record<string, string|number|boolean>} options
 *
 * @typedef {object} Region in pixels of the picture
 * @property {string} label
 * @property {[number, number, number, number]|null} box left, top, right, bottom
 * @property {number[]} [quad] x, y of the four corners
 * @property {number[][]} [polygons] x, y of the points of each
 * @property {number} [score]
 *
 * @typedef {object} Result of one instruction
 * @property {string} instruction
 * @property {string} text
 * @property {boolean} truncated
 * @property {string} [unmet] which condition it fails, though it was asked for again
 * @property {string} [prose]
 * @property {string[]} [tags]
 * @property {{subjects: Record<string, string>[], unparsed?: string}} [analysis]
 * @property {Region[]} [regions]
 *
 * @typedef {object} Answer about one picture
 * @property {number} width
 * @property {number} height
 * @property {Result[]} results
 */

const KEY_NAME = "promptgen.api-key";
const MOST_TRIES = 10;
const OF_PICTURE = /^image \d+: /; // the server names what does not fit, such as a region beyond its edge

/** A request that got no answer; the message says why and what to do. */
export class RequestError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string, retryAfter?: number|null}} [more] the status is 0 where the server was
   *   not reached
   */
  constructor(message, { status = 0, code = "", retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }

  /** For the picture that was asked about. */
  get aboutPicture() {
    return this.message.replace(OF_PICTURE, "");
  }

  /** Whether the same would happen to every other picture. */
  get concernsAll() {
    if (OF_PICTURE.test(this.message)) return false;
    return [0, 400, 401, 403, 404].includes(this.status) || this.code === "shutting_down";
  }
}

/** @type {string|null} */
let apiKey = storage()?.getItem(KEY_NAME) ?? null;

/** @param {string} key kept until the tab is closed, and sent to this server alone */
export function useKey(key) {
  apiKey = key;
  storage()?.setItem(KEY_NAME, key);
}

/** @returns {boolean} */
export function hasKey() {
  return apiKey !== null;
}

/** None in a browser that is told to keep nothing: there the key is gone with the page. */
function storage() {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}

/** @returns {Promise<{models: ServedModel[], instructions: Instruction[]}>} the first model is the usual one */
export async function getOffer() {
  const [models, table] = await Promise.all([request("v1/models"), request("v1/instructions")]);
  return { models: servedModels(models.data), instructions: table.instructions };
}

/**
 * The models themselves, of a list that names them with each instruction (`NAME:CAPTION`) as well.
 *
 * @param {{id: string, instructions?: string[], family: string, default_instruction: string}[]} list
 * @returns {ServedModel[]}
 */
export function servedModels(list) {
  const ids = new Set(list.map((model) => model.id));
  return list
    .filter(({ id }) => !ids.has(id.slice(0, Math.max(0, id.lastIndexOf(":")))))
    .map(({ id, instructions, family, default_instruction: defaultInstruction }) => ({
      id,
      instructions: instructions ?? [],
      family,
      defaultInstruction,
    }));
}

/**
 * Ask about one picture. A server with too much to do is asked again when it says.
 *
 * @param {Ask} ask
 * @param {File} file
 * @param {AbortSignal} signal
 * @param {(seconds: number) => void} onWait told how long it will be until the next try
 * @returns {Promise<Answer>}
 */
export async function getAnswer(ask, file, signal, onWait) {
  const body = new FormData();
  body.append("images", await readFile(file), file.name);
  body.append("model", ask.model);
  for (const name of ask.instructions) body.append("instructions", name);
  body.append("options", JSON.stringify(ask.options));
  for (let left = MOST_TRIES; ; left--) {
    try {
      const { images } = await request("v1/captions", { method: "POST", body, signal });
      if (images[0].error) throw new RequestError(images[0].error, { status: 422 });
      return images[0];
    } catch (error) {
      if (!(error instanceof RequestError) || error.retryAfter === null || left <= 1) throw error;
      for (let seconds = error.retryAfter; seconds > 0; seconds--) {
        onWait(seconds);
        await sleep(1000, signal);
      }
    }
  }
}

/**
 * The bytes as they are now: a file that has changed on the disk would otherwise look like a broken connection.
 *
 * @param {File} file
 */
async function readFile(file) {
  try {
    return new Blob([await file.arrayBuffer()], { type: file.type });
  } catch {
    const message = `${file.name} has changed on the disk or is gone. Remove it here and add it again.`;
    throw new RequestError(message, { status: 422 });
  }
}

/**
 * @param {string} address
 * @param {RequestInit} [options]
 * @returns {Promise<any>} the JSON of the answer
 */
async function request(address, options = {}) {
  const headers = new Headers(apiKey === null ? [] : [["Authorization", `Bearer ${apiKey}`]]);
  let response;
  try {
    response = await fetch(address, { ...options, headers, cache: "no-store" });
    if (response.ok) return await response.json();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    if (error instanceof SyntaxError) throw new RequestError("What came back is not from promptgen serve.");
    throw new RequestError(`The server at ${location.host} does not answer. Is promptgen serve still running?`);
  }
  throw refusal(response.status, await response.text(), response.headers.get("Retry-After"));
}

/**
 * @param {number} status
 * @param {string} body JSON with the reason in `detail`, unless a proxy wrote it
 * @param {string|null} retryAfter seconds
 */
export function refusal(status, body, retryAfter) {
  let said;
  try {
    said = JSON.parse(body);
    if (typeof said?.detail !== "string") throw new SyntaxError("not of our server");
  } catch {
    return new RequestError(`Something before the server answered with status ${status}. Is promptgen serve running?`);
  }
  const isFull = status === 429 || said.code === "too_many_connections";
  const seconds = Math.min(60, Math.max(1, Math.ceil(Number(retryAfter)) || 1));
  return new RequestError(said.detail, {
    status,
    code: said.code,
    retryAfter: isFull ? seconds : null,
  });
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
  });
}
