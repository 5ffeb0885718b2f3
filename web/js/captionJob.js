/**
 * One caption request to the host: a small prompt of its own in the host's queue, waited for and cancellable.
 *
 * @typedef {{state: "queued", ahead: number} | {state: "running"}} Progress
 */

/** Under a client id of its own: the page's would have the host's messages reach nodes of the same id in the graph. */
const CLIENT_ID = "promptgen-caption-menu";
const POLL_MS = 300;
/** Failed requests in a row before the host counts as gone: it may restart, or the network may hiccup. */
const PATIENCE = 10;

/** The user cancelled, here or in the host's queue. */
export class Cancelled extends Error {}

/**
 * The prompt that captions images: a Load Image and a Tagger for each.
 *
 * @param {string[]} names as Load Image names them
 * @param {Record<string, any>} settings the Tagger's values
 * @returns {{prompt: Record<string, any>, targets: string[]}} and the ids of the Taggers, in the images' order
 */
export function captionPrompt(names, settings) {
  /** @type {Record<string, any>} */
  const prompt = {};
  const targets = names.map((name, index) => {
    const image = `promptgen_image_${index}`;
    const tagger = `promptgen_tagger_${index}`;
    prompt[image] = { class_type: "LoadImage", inputs: { image: name } };
    prompt[tagger] = { class_type: "PromptGenTagger", inputs: { ...settings, image: [image, 0] } };
    return tagger;
  });
  return { prompt, targets };
}

export class CaptionJob {
  /**
   * @param {any} api the host's
   * @param {Record<string, any>} prompt
   * @param {string[]} targets ids of the output nodes to run, whose texts are the result
   */
  constructor(api, prompt, targets) {
    this.api = api;
    this.prompt = prompt;
    this.targets = targets;
    this.id = "";
    this.cancelled = false;
  }

  /**
   * Queue the prompt.
   *
   * @param {Record<string, any>} graph the prompt of the open workflow. It goes along without being run, because
   *   the host forgets the cached results of every node that is not in the prompt that it runs: without it, the
   *   next run of the workflow would load its models and sample again.
   */
  async queue(graph) {
    let response = await this.#post({ ...graph, ...this.prompt });
    // The host refuses a prompt with any node that it does not know. The caption does not depend on those.
    if (response.status === 400 && Object.keys(graph).length) response = await this.#post(this.prompt);
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(refusal(answer) || `ComfyUI refused: ${response.status} ${response.statusText}`);
    this.id = answer.prompt_id;
  }

  /** @param {Record<string, any>} prompt */
  #post(prompt) {
    return this.#request("/prompt", { prompt, client_id: CLIENT_ID, partial_execution_targets: this.targets });
  }

  /**
   * @param {string} route
   * @param {object} [body] posted; without one it is a GET
   */
  async #request(route, body) {
    const options = body && {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    };
    try {
      return await this.api.fetchApi(route, options);
    } catch (error) {
      throw new Error("ComfyUI does not answer. Is it still running?", { cause: error });
    }
  }

  /**
   * Wait until the host is done with the prompt.
   *
   * @param {(progress: Progress) => void} onProgress
   * @returns {Promise<string[]>} one text per target (more where a target had several frames)
   * @throws {Cancelled} if it was cancelled or removed from the queue
   * @throws {Error} with the node's own message if it failed
   */
  async wait(onProgress) {
    for (let failures = 0; ; ) {
      try {
        const outcome = await this.#look(onProgress);
        if (outcome) return this.#texts(outcome);
        failures = 0;
      } catch (error) {
        if (!(error instanceof Unreachable) || ++failures >= PATIENCE) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** Take the prompt out of the queue, or stop it where it runs. `wait` then throws Cancelled. */
  cancel() {
    this.cancelled = true;
  }

  /**
   * @param {(progress: Progress) => void} onProgress
   * @returns {Promise<any>} the history entry once there is one
   */
  async #look(onProgress) {
    // The queue first: a job that ends between the two questions is then found in the history.
    const queue = await this.#getJson("/queue");
    if (queue.queue_running?.some((item) => item[1] === this.id)) {
      if (this.cancelled) await this.#request("/interrupt", { prompt_id: this.id });
      else onProgress({ state: "running" });
      return null;
    }
    const pending = queue.queue_pending?.find((item) => item[1] === this.id);
    if (pending) {
      if (this.cancelled) await this.#request("/queue", { delete: [this.id] });
      else {
        const before = queue.queue_pending.filter((item) => item[0] < pending[0]).length;
        onProgress({ state: "queued", ahead: before + queue.queue_running.length });
      }
      return null;
    }
    const entry = (await this.#getJson(`/history/${this.id}`))[this.id];
    if (!entry) throw new Cancelled(this.cancelled ? "Cancelled." : "It was removed from the queue.");
    return entry;
  }

  /** @param {string} route */
  async #getJson(route) {
    try {
      const response = await this.#request(route);
      if (!response.ok) throw new Error(`ComfyUI answered ${response.status} ${response.statusText} to ${route}`);
      return await response.json();
    } catch (error) {
      throw new Unreachable(error.message, { cause: error });
    }
  }

  /** @param {any} entry of the history */
  #texts(entry) {
    const messages = new Map(entry.status?.messages ?? []);
    if (messages.has("execution_interrupted")) throw new Cancelled("Cancelled.");
    if (entry.status?.status_str === "error") {
      const message = messages.get("execution_error")?.exception_message?.trim();
      throw new Error(message || "It failed. ComfyUI's log says more.");
    }
    return this.targets.flatMap((target) => entry.outputs?.[target]?.text ?? []);
  }
}

/** The host did not answer, or not sensibly; it may next time. */
class Unreachable extends Error {}

/**
 * What the host says of a prompt that it refuses: what is wrong with which value, else its summary.
 *
 * @param {any} answer
 * @returns {string}
 */
function refusal(answer) {
  const reasons = Object.values(answer.node_errors ?? {}).flatMap((node) => node.errors ?? []);
  const texts = reasons.map(({ message, details }) => (details ? `${message}: ${details}` : message));
  if (texts.length) return texts.join("\n");
  const { message = "", details = "" } = answer.error ?? {};
  return details ? `${message}: ${details}` : message;
}
