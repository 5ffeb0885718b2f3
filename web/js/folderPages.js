/**
 * Pages of Load Image Folder: with "increment", and with its arrows, `start` goes on by `limit`, so that each run
 * takes the images after those of the last. A new node keeps its start until the user says otherwise.
 */
import { app } from "../../../scripts/app.js";

app.registerExtension({
  name: "PromptGen.FolderPages",

  /** @param {import("./definition.js").Node} node */
  nodeCreated(node) {
    if (node.comfyClass !== "PromptGenLoadFolder") return;
    const start = node.widgets?.find((widget) => widget.name === "start");
    const limit = node.widgets?.find((widget) => widget.name === "limit");
    if (!start || !limit) return;
    const control = start.linkedWidgets?.find((widget) => widget.name === "control_after_generate");
    if (control) control.value = "fixed";
    Object.defineProperty(start.options, "step2", {
      get: () => Math.max(1, Number(limit.value) || 1),
      set: () => {}, // the page sets it from the input's definition
      enumerable: true,
      configurable: true,
    });
  },
});
