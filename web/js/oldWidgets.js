/**
 * The values that nodes of other packs were saved with, which the host finds by their place when it replaces such a
 * node by ours (nodes/replacements.py). Their places differ: older front ends also saved a value for texts that can
 * only be connected, and a later release of that pack has a seed where others have "random_prompt". And numbers may be
 * larger than ours take (nodes/limits.py).
 *
 * @typedef {{type: string, widgets_values?: any}} SavedNode
 * @typedef {{nodes?: SavedNode[], definitions?: {subgraphs?: {nodes?: SavedNode[]}[]}}} SavedWorkflow
 */

const SEED = "seed";
const RANDOM_PROMPT = "random_prompt";

const TAGGER_START = ["model", "folder_path", "caption_method", "max_new_tokens", "num_beams"];
const TAGGER_LINKS = ["filenames", "captions"];
const TAGGER_END = ["prefix_caption", "suffix_caption", "replace_tags"];
const TAGGER_SEED = [SEED, "control_after_generate"];
const SAVER = ["save_folder", "filename_prefix", "mode"];
const ANALYZER = [
  "subject_index",
  ...["camera_angle", "art_style", "location", "text", "distance_to_camera", "background", "position_in_image"],
  ...["gender", "age", "hair_style", "hair_color", "facial_expression", "eye_direction", "facing_direction", "race"],
  ...["ear", "expression", "body", "accessory", "pants", "clothing", "shoes", "action"],
];

/** Node -> the orders in which its values were saved, no two of one length; the first is the replacement's. */
const ORDERS = {
  Miaoshouai_Tagger: [
    [...TAGGER_START, RANDOM_PROMPT, ...TAGGER_END],
    [...TAGGER_START, RANDOM_PROMPT, ...TAGGER_LINKS, ...TAGGER_END],
    [...TAGGER_START, ...TAGGER_SEED, ...TAGGER_END],
    [...TAGGER_START, ...TAGGER_SEED, ...TAGGER_LINKS, ...TAGGER_END],
  ],
  Miaoshouai_SaveTags: [SAVER, [...TAGGER_LINKS, ...SAVER]],
  Miaoshouai_Flux_CLIPTextEncode: [["guidance"], ["caption", "guidance"]],
  Miaoshouai_Caption_Analyzer: [ANALYZER, ["analyze", ...ANALYZER]],
};

const MOST_BEAMS = 16;
const MOST_NEW_TOKENS = 1024;

/** Node -> the place of a number in the replacement's order -> the most that ours takes. */
const MOST = {
  Miaoshouai_Tagger: { 3: MOST_NEW_TOKENS, 4: MOST_BEAMS },
  Florence2Run: { 4: MOST_NEW_TOKENS, 5: MOST_BEAMS },
};

/**
 * @param {string} type
 * @param {any} values in the replacement's order
 * @returns {any}
 */
export function withinLimits(type, values) {
  if (!Object.hasOwn(MOST, type) || !Array.isArray(values)) return values;
  return values.map((value, place) => (typeof value === "number" ? Math.min(value, MOST[type][place] ?? value) : value));
}

/**
 * The values in the order that the replacement reads; as they are if that is their order, or none that is known.
 *
 * @param {string} type
 * @param {any} values
 * @returns {any}
 */
export function inKnownOrder(type, values) {
  const orders = Object.hasOwn(ORDERS, type) && ORDERS[type];
  if (!orders || !Array.isArray(values)) return values;
  const [wanted, ...others] = orders;
  const order = others.find((names) => names.length === values.length);
  if (!order) return values;
  const saved = Object.fromEntries(order.map((name, index) => [name, values[index]]));
  if (SEED in saved) saved[RANDOM_PROMPT] = saved[SEED] ? "always" : "never"; // a seed of 0 did not sample
  return wanted.map((name) => saved[name]);
}

/**
 * Every such node of a workflow that is about to be opened, subgraphs included.
 *
 * @param {SavedWorkflow} workflow
 * @param {(type: string) => boolean} isInstalled
 */
export function reorderOldWidgets(workflow, isInstalled) {
  const graphs = [workflow, ...(workflow.definitions?.subgraphs ?? [])];
  for (const node of graphs.flatMap((graph) => graph.nodes ?? [])) {
    if ((Object.hasOwn(ORDERS, node.type) || Object.hasOwn(MOST, node.type)) && !isInstalled(node.type)) {
      node.widgets_values = withinLimits(node.type, inKnownOrder(node.type, node.widgets_values));
    }
  }
}
