/** Extension: "Caption with PromptGen" in the right-click menu of every node that shows an image. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { addTagger } from "./addTagger.js";
import { CaptionDialog } from "./captionDialog.js";
import { Cancelled, CaptionJob, captionPrompt } from "./captionJob.js";
import { chain } from "./chain.js";
import { choicesOf, defaultsOf } from "./definition.js";
import { loadImageName, shownImages, uploadImage } from "./nodeImages.js";
import { TEXT_PROPERTY, joinTexts } from "./texts.js";

const TAGGER = "PromptGenTagger";
const MENU_LABEL = "Caption with PromptGen";
const CHECKPOINT_SETTING = "PromptGen.MenuCheckpoint";
/** Not "", for which the settings window would show an empty field. */
const AUTOMATIC = "automatic";

/** The Tagger's definition, read when the host's nodes are registered: instructions and checkpoints come from it. */
let definition = /** @type {import("./definition.js").NodeDefinition | null} */ (null);

/** Front ends that ask extensions for menu entries collect them with this; older ones have only the node's hook. */
const collectsMenuItems = typeof app.collectNodeMenuItems === "function";

app.registerExtension({
  name: "PromptGen.CaptionMenu",

  settings: [
    {
      id: CHECKPOINT_SETTING,
      category: ["PromptGen", "Right-click menu", "Checkpoint"],
      name: "PromptGen: checkpoint for the right-click menu",
      tooltip: "Automatic: that of a PromptGen Tagger in the workflow, else the Tagger's default.",
      type: "combo",
      defaultValue: AUTOMATIC,
      options: () => [
        { text: "Automatic", value: AUTOMATIC },
        ...(definition ? choicesOf(definition, "checkpoint") : []).map((name) => ({ text: name, value: name })),
      ],
    },
  ],

  beforeRegisterNodeDef(_nodeType, nodeData) {
    if (nodeData.name === TAGGER) definition = nodeData;
  },

  /** Newer front ends. */
  getNodeMenuItems(node) {
    return menuItems(node);
  },

  /** Older front ends. On the node itself, because the classes of subgraph nodes are never handed to extensions. */
  nodeCreated(node) {
    if (collectsMenuItems) return;
    node.getExtraMenuOptions = chain(node.getExtraMenuOptions, function (_canvas, options) {
      options.push(...menuItems(this));
    });
  },
});

/**
 * @param {any} node
 * @returns {object[]} the entry with its submenu, or nothing for a node that shows no image
 */
function menuItems(node) {
  if (!definition) return [];
  const images = shownImages(node, app);
  if (!images.length) return [];
  const options = choicesOf(definition, "instruction").map((instruction) => ({
    content: instruction,
    callback: () => void captionNode(node, images, instruction),
  }));
  return [{ content: MENU_LABEL, has_submenu: true, submenu: { options } }];
}

/**
 * Caption images in a window of their own, and keep it up to date until it is closed.
 *
 * @param {any} node that shows them
 * @param {string[]} images their addresses
 * @param {string} instruction
 */
async function captionNode(node, images, instruction) {
  let checkpoint = chooseCheckpoint();
  let job = /** @type {CaptionJob | null} */ (null);
  let cancelled = false;

  const dialog = new CaptionDialog(instruction, images, choicesOf(definition, "checkpoint"), {
    onAgain(name) {
      if (name !== checkpoint) void app.extensionManager.setting.set(CHECKPOINT_SETTING, name);
      checkpoint = name;
      void run();
    },
    onCancel() {
      cancelled = true;
      job?.cancel();
    },
    onAdd() {
      if (!node.graph) throw new Error("The node is no longer in the workflow.");
      const { wired } = addTagger(node, { instruction, checkpoint }, app.canvas);
      return wired
        ? "Added a PromptGen Tagger, wired to the image."
        : "Added a PromptGen Tagger. This node passes no image on: connect one to it.";
    },
  });

  async function run() {
    cancelled = false;
    job = null;
    dialog.showBusy("Sending to ComfyUI…", checkpoint);
    try {
      const names = await Promise.all(images.map((image) => loadImageName(image) ?? uploadImage(api, image)));
      const { prompt, targets } = captionPrompt(names, { ...defaultsOf(definition), instruction, checkpoint });
      const graph = await openGraphPrompt();
      if (cancelled) throw new Cancelled("Cancelled.");
      job = new CaptionJob(api, prompt, targets);
      await job.queue(graph);
      if (cancelled) job.cancel();
      const texts = await job.wait((progress) => dialog.showBusy(describe(progress), checkpoint));
      await dialog.showResult(joinTexts(texts));
    } catch (error) {
      if (error instanceof Cancelled && cancelled) dialog.close();
      else dialog.showError(error.message);
    }
  }

  await run();
}

/** @param {import("./captionJob.js").Progress} progress */
function describe(progress) {
  if (progress.state === "running") return "Captioning…";
  return progress.ahead ? `Waiting in the queue behind ${progress.ahead}…` : "Waiting in the queue…";
}

/** @returns {Promise<Record<string, any>>} the open workflow as a prompt; empty where it cannot be had */
async function openGraphPrompt() {
  try {
    return (await app.graphToPrompt()).output ?? {};
  } catch (error) {
    console.warn("PromptGen: the open workflow does not go along with the caption request.", error);
    return {};
  }
}

/** The user's choice; else that of a Tagger in the workflow, best one that has run; else the Tagger's default. */
function chooseCheckpoint() {
  const chosen = app.extensionManager.setting.get(CHECKPOINT_SETTING);
  if (chosen && chosen !== AUTOMATIC) return chosen;
  const nodes = (app.canvas.graph ?? app.graph).nodes ?? [];
  const taggers = nodes.filter((node) => node.type === TAGGER);
  const tagger = taggers.findLast((node) => node.properties?.[TEXT_PROPERTY]) ?? taggers.at(-1);
  return (tagger && checkpointOf(tagger)) ?? defaultsOf(definition).checkpoint;
}

/**
 * @param {any} tagger
 * @returns {string | undefined}
 */
function checkpointOf(tagger) {
  const input = tagger.inputs?.findIndex((slot) => slot.name === "model") ?? -1;
  const loader = input >= 0 ? tagger.getInputNode(input) : null; // the loader's checkpoint wins over the Tagger's
  const holder = loader?.type === "PromptGenModelLoader" ? loader : tagger;
  return holder.widgets?.find((widget) => widget.name === "checkpoint")?.value;
}
