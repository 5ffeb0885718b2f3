/** Extension: the text that a PromptGen node sent stands on the node, and stays there over a reload. */

import { app } from "../../../scripts/app.js";
import { chain } from "./chain.js";
import { addStyleSheet } from "./style.js";
import { createTextPanel } from "./textPanel.js";
import { TEXT_PROPERTY, joinTexts, textsOf } from "./texts.js";

const WIDGET_NAME = "promptgen_text";
const MIN_HEIGHT = 76;
const FIRST_WIDTH = 300;

/** @type {WeakMap<object, {panel: import("./textPanel.js").TextPanel, widget: object}>} */
const shown = new WeakMap();

app.registerExtension({
  name: "PromptGen.NodeText",

  setup() {
    addStyleSheet();
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!isOurs(nodeData)) return;
    const prototype = nodeType.prototype;
    prototype.onExecuted = chain(prototype.onExecuted, function (output) {
      const texts = textsOf(output);
      if (texts) keepText(this, joinTexts(texts));
    });
    prototype.onConfigure = chain(prototype.onConfigure, function () {
      // A node that is configured outside a graph is a copy being made: the text is the original's, not its own.
      if (!this.graph) delete this.properties[TEXT_PROPERTY];
      showText(this, false);
    });
    prototype.onAdded = chain(prototype.onAdded, function () {
      showText(this, false);
    });
    prototype.onRemoved = chain(prototype.onRemoved, function () {
      removePanel(this);
    });
  },

  /**
   * The host replaced all outputs at once: another workflow tab was opened, or a finished job from the queue.
   * Only newer front ends call this.
   *
   * @param {Record<string, {text?: string[]}>} outputs by "node id" or "subgraph id:node id"
   */
  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs ?? {})) {
      const texts = textsOf(output);
      const node = texts && findNode(locator);
      if (node && isOurs(node.constructor.nodeData)) keepText(node, joinTexts(texts));
    }
  },
});

/**
 * Whether a definition is one of this pack's. The category too, since other packs may use the word PromptGen.
 *
 * @param {{name?: string, category?: string} | undefined} nodeData
 */
function isOurs(nodeData) {
  return Boolean(nodeData?.name?.startsWith("PromptGen") && nodeData.category?.startsWith("PromptGen"));
}

/** @param {string} locator */
function findNode(locator) {
  const root = app.rootGraph ?? app.graph;
  const parts = locator.split(":");
  const graph = parts.length > 1 ? root?.subgraphs?.get(parts[0]) : root;
  return graph?.getNodeById?.(parts.at(-1)) ?? null;
}

/**
 * Show a new text, and keep it with the node.
 *
 * @param {any} node
 * @param {string} text
 */
function keepText(node, text) {
  if (node.properties[TEXT_PROPERTY] === text && shown.has(node)) return;
  node.properties[TEXT_PROPERTY] = text;
  showText(node, true);
  noticeChange();
}

/**
 * Bring the node's panel in line with the text that it keeps.
 *
 * @param {any} node
 * @param {boolean} grow whether the node may grow for a panel that it did not have; a loaded node has its size
 */
function showText(node, grow) {
  const text = node.properties?.[TEXT_PROPERTY];
  if (typeof text !== "string") {
    if (!shown.has(node) && isDrawnByVue(node)) addPanel(node);
    shown.get(node)?.panel.setText("");
    return;
  }
  const isNew = !shown.has(node);
  if (isNew) addPanel(node);
  shown.get(node).panel.setText(text);
  if (isNew && grow) growFor(node, text);
  node.setDirtyCanvas?.(true, true);
}

/**
 * Whether the panel must be there before there is a text: front ends that draw nodes with Vue may overlook a
 * widget that is added later, until the page is loaded again.
 *
 * @param {any} node
 */
function isDrawnByVue(node) {
  return Boolean(globalThis.LiteGraph?.vueNodesMode && node.graph && node.constructor.nodeData?.output_node);
}

/** @param {any} node */
function addPanel(node) {
  const panel = createTextPanel(app.canvas);
  const widget = node.addDOMWidget(WIDGET_NAME, WIDGET_NAME, panel.element, {
    serialize: false, // not an input: stays out of the prompt
    getValue: panel.getText,
    setValue: () => {},
    getMinHeight: () => MIN_HEIGHT,
  });
  widget.serialize = false; // and out of the saved widgets_values
  shown.set(node, { panel, widget });
}

/** @param {any} node */
function removePanel(node) {
  const entry = shown.get(node);
  if (!entry) return;
  shown.delete(node);
  entry.panel.dispose();
  entry.widget.onRemove?.();
  const index = node.widgets?.indexOf(entry.widget) ?? -1;
  if (index >= 0) node.widgets.splice(index, 1);
  entry.panel.element.remove();
}

/**
 * Make room for the first text: about as many lines as it has, within limits. Never smaller than the user made it.
 *
 * @param {any} node
 * @param {string} text
 */
function growFor(node, text) {
  const width = Math.max(node.size[0], FIRST_WIDTH);
  const perLine = Math.floor((width - 40) / 5.5);
  const lines = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / perLine)), 0);
  const wanted = Math.min(Math.max(lines * 13 + 60, MIN_HEIGHT), 280);
  const smallest = node.computeSize()[1];
  node.setSize([width, Math.max(node.size[1], smallest - MIN_HEIGHT + wanted)]);
}

/**
 * Let the front end notice that the workflow changed, so that its copy of the unsaved workflow has the text too;
 * it looks by itself only after clicks and keys.
 */
function noticeChange() {
  app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState?.();
}
