const GAP = 60;

/**
 * Add a PromptGen Tagger to the right of a node, wired to the image that the node shows: to its own IMAGE output,
 * or, where it only shows or saves an image, to what feeds it.
 *
 * @param {any} source
 * @param {Record<string, any>} values for the Tagger's widgets
 * @param {any} canvas
 * @returns {{tagger: any, wired: boolean}}
 */
export function addTagger(source, values, canvas) {
  const graph = source.graph;
  const tagger = globalThis.LiteGraph.createNode("PromptGenTagger");
  if (!tagger) throw new Error("This ComfyUI does not have the PromptGen Tagger node.");
  canvas.emitBeforeChange?.();
  try {
    for (const widget of tagger.widgets ?? []) {
      if (Object.hasOwn(values, widget.name)) widget.value = values[widget.name];
    }
    tagger.pos = freePlace(graph, [source.pos[0] + source.size[0] + GAP, source.pos[1]], tagger.size);
    graph.add(tagger);
    const wired = connectImage(source, tagger);
    canvas.selectNode?.(tagger);
    canvas.setDirty(true, true);
    return { tagger, wired };
  } finally {
    canvas.emitAfterChange?.();
  }
}

/**
 * @param {any} source
 * @param {any} tagger
 * @returns {boolean} whether there was an image to connect
 */
function connectImage(source, tagger) {
  const input = tagger.inputs.findIndex((slot) => slot.name === "image");
  const own = source.outputs?.findIndex((slot) => isImage(slot.type)) ?? -1;
  if (own >= 0) return Boolean(source.connect(own, tagger, input));
  const fed = source.inputs?.find((slot) => isImage(slot.type) && slot.link != null);
  const link = fed && getLink(source.graph, fed.link);
  const origin = link && source.graph.getNodeById(link.origin_id);
  return Boolean(origin?.connect(link.origin_slot, tagger, input));
}

/** @param {unknown} type of a slot: a name, or several with commas */
function isImage(type) {
  return typeof type === "string" && type.split(",").includes("IMAGE");
}

/**
 * @param {any} graph
 * @param {number} id
 */
function getLink(graph, id) {
  return graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id];
}

/**
 * The place, moved down until nothing lies under it.
 *
 * @param {any} graph
 * @param {[number, number]} place
 * @param {[number, number]} size
 * @returns {[number, number]}
 */
function freePlace(graph, [x, y], [width, height]) {
  const covers = (node) =>
    node.pos[0] < x + width &&
    node.pos[0] + node.size[0] > x &&
    node.pos[1] - 30 < y + height && // 30: the title stands above pos
    node.pos[1] + node.size[1] > y - 30;
  const nodes = graph.nodes ?? graph._nodes ?? [];
  for (let below = nodes.find(covers); below; below = nodes.find(covers)) y = below.pos[1] + below.size[1] + GAP;
  return [x, y];
}
