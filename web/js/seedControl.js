/**
 * A new captioner keeps its seed. The page would draw another one after every run, and since a node with
 * another seed is another node, unchanged images would be captioned again, though the seed only matters to
 * sampling. Whoever samples chooses "randomize" beside it; saved workflows keep what they say.
 */
import { app } from "../../../scripts/app.js";

const CAPTIONERS = ["PromptGenTagger", "PromptGenRemoteTagger", "PromptGenPaliGemma"];

app.registerExtension({
  name: "PromptGen.SeedControl",

  /** @param {import("./definition.js").Node} node */
  nodeCreated(node) {
    if (!CAPTIONERS.includes(node.comfyClass)) return;
    const seed = node.widgets?.find((widget) => widget.name === "seed");
    const control = seed?.linkedWidgets?.find((widget) => widget.name === "control_after_generate");
    if (control) control.value = "fixed";
  },
});
