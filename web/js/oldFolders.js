/**
 * Taggers of another pack that read a folder by themselves. Ours tags what it is given, so in a workflow that is about
 * to be opened a node that loads the folder is put in front of each, and what hung on its images, file names, folder
 * and number hangs on that node. Then it is like any other tagger, and the host replaces it (nodes/replacements.py).
 *
 * @typedef {{name: string, type: string, link?: number | null, links?: number[] | null}} SavedSlot
 * @typedef {object} SavedNode
 * @property {number} id
 * @property {string} type
 * @property {any} [pos]
 * @property {SavedSlot[]} [inputs]
 * @property {SavedSlot[]} [outputs]
 * @property {any} [widgets_values]
 *
 * @typedef {object} SavedGraph
 * @property {SavedNode[]} [nodes]
 * @property {any[]} [links] in a workflow [id, from node, from slot, to node, to slot, type]; in a subgraph objects
 * @property {number} [last_node_id] in a workflow; a subgraph has `state`
 * @property {number} [last_link_id]
 * @property {{lastNodeId: number, lastLinkId: number}} [state]
 */

const TAGGER = "Miaoshouai_Tagger";
const UNSET = "Path to your image folder"; // what a new node said
const FOLDER = 1; // the place among the saved values, in all releases

/** Output of the tagger -> of the node that loads: images, filenames, folder_path, batch_size. */
const MOVED = new Map([[0, 0], [1, 2], [3, 4], [4, 5]]);

const OUTPUTS = [
  ["images", "IMAGE"],
  ["masks", "MASK"],
  ["filenames", "STRING"],
  ["captions", "STRING"],
  ["folder", "STRING"],
  ["count", "INT"],
];

/**
 * @param {SavedGraph & {definitions?: {subgraphs?: SavedGraph[]}}} workflow
 * @param {(type: string) => boolean} isInstalled
 */
export function addFolderNodes(workflow, isInstalled) {
  if (isInstalled(TAGGER)) return;
  for (const graph of [workflow, ...(workflow.definitions?.subgraphs ?? [])]) {
    for (const node of [...(graph.nodes ?? [])]) {
      if (node.type === TAGGER && readsFolder(node)) addFolderNode(graph, node);
    }
  }
}

/** @param {SavedNode} node */
function readsFolder(node) {
  const folder = Array.isArray(node.widgets_values) ? node.widgets_values[FOLDER] : null;
  const images = node.inputs?.find((input) => input.name === "images");
  return typeof folder === "string" && folder.trim() !== "" && folder !== UNSET && images?.link == null;
}

/**
 * @param {SavedGraph} graph
 * @param {SavedNode} tagger
 */
function addFolderNode(graph, tagger) {
  const [id, link] = nextIds(graph);
  const [x, y] = [tagger.pos?.[0] ?? 0, tagger.pos?.[1] ?? 0];
  /** @type {any} */
  const loader = {
    id,
    type: "PromptGenLoadFolder",
    pos: [x - 380, y],
    size: [340, 330],
    flags: {},
    order: 0,
    mode: /** @type {any} */ (tagger).mode ?? 0,
    inputs: [],
    outputs: OUTPUTS.map(([name, type]) => ({ name, type, links: [] })),
    properties: { "Node name for S&R": "PromptGenLoadFolder" },
    // No captions: nobody asks for them, and those that are saved beside the images would load all of it again.
    widgets_values: [tagger.widgets_values[FOLDER], "", false, "name", 0, "fixed", 0, "none"],
  };
  graph.nodes?.push(loader);
  moveOutputs(graph, tagger, loader);
  graph.links = [...(graph.links ?? []), newLink(graph, link, id, tagger)];
  loader.outputs[0].links.push(link);
  const images = tagger.inputs?.find((input) => input.name === "images");
  if (images) images.link = link;
  else tagger.inputs = [{ name: "images", type: "IMAGE", link }, ...(tagger.inputs ?? [])];
}

/**
 * @param {SavedGraph} graph
 * @returns {[number, number]} a new node's number and a new link's
 */
function nextIds(graph) {
  if (graph.state) return [++graph.state.lastNodeId, ++graph.state.lastLinkId];
  graph.last_node_id = Math.max(graph.last_node_id ?? 0, ...(graph.nodes ?? []).map((node) => node.id)) + 1;
  graph.last_link_id = (graph.last_link_id ?? 0) + 1;
  return [graph.last_node_id, graph.last_link_id];
}

/**
 * @param {SavedGraph} graph
 * @param {number} id
 * @param {number} loader
 * @param {SavedNode} tagger
 */
function newLink(graph, id, loader, tagger) {
  const place = tagger.inputs?.findIndex((input) => input.name === "images") ?? -1;
  const slot = Math.max(0, place);
  if (!graph.state) return [id, loader, 0, tagger.id, slot, "IMAGE"];
  return { id, origin_id: loader, origin_slot: 0, target_id: tagger.id, target_slot: slot, type: "IMAGE" };
}

/**
 * @param {SavedGraph} graph
 * @param {SavedNode} tagger
 * @param {any} loader
 */
function moveOutputs(graph, tagger, loader) {
  for (const link of graph.links ?? []) {
    const [origin, slot] = Array.isArray(link) ? [1, 2] : ["origin_id", "origin_slot"];
    const to = link[origin] === tagger.id ? MOVED.get(link[slot]) : undefined;
    if (to === undefined) continue;
    link[origin] = loader.id;
    link[slot] = to;
    loader.outputs[to].links.push(Array.isArray(link) ? link[0] : link.id);
  }
  for (const from of MOVED.keys()) {
    const output = tagger.outputs?.[from];
    if (output) output.links = null;
  }
}
