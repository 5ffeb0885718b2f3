/** Extension: workflows with nodes of other packs can be opened with ours in their place, where the host does that. */

import { app } from "../../../scripts/app.js";
import { addFolderNodes } from "./oldFolders.js";
import { reorderOldWidgets } from "./oldWidgets.js";

app.registerExtension({
  name: "PromptGen.OldWorkflows",

  beforeConfigureGraph(workflow) {
    // Only hosts that replace nodes have this setting. Elsewhere a saved node stays as it is.
    if (!app.extensionManager?.setting?.get?.("Comfy.NodeReplacement.Enabled")) return;
    const isInstalled = (type) => type in LiteGraph.registered_node_types;
    reorderOldWidgets(workflow, isInstalled);
    addFolderNodes(workflow, isInstalled);
  },
});
