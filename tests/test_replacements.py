"""Nodes of other packs that ours stand in for: the table, what hosts make of it, and that the result runs.

No host of the versions that know replacements is at hand. Their two ways of applying one, as documented and
as read in their sources, are written down here (``in_the_browser``, ``on_the_server``); what comes out runs
on the hosts that there are.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import itertools
import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from promptgen.captioning import (
    ANALYSIS_FIELDS,
    GenerationOptions,
    TagOptions,
    edit_tags,
    find_instruction,
)
from promptgen.captioning.tags import edit_prose
from promptgen.models_cache import adapter_catalogue, catalogue, find_entry
from promptgen.models_cache.folders import resolve

from .comfyui_host import Host
from .helpers_dev import ROOT

TAGGER, FLUX, ANALYZER = "Miaoshouai_Tagger", "Miaoshouai_Flux_CLIPTextEncode", "Miaoshouai_Caption_Analyzer"
SAVER = "Miaoshouai_SaveTags"
RUN, LOADER, LOCAL_LOADER = "Florence2Run", "DownloadAndLoadFlorence2Model", "Florence2ModelLoader"
LORA = "DownloadAndLoadFlorence2Lora"
ALL = [TAGGER, SAVER, FLUX, ANALYZER, RUN, LOADER, LOCAL_LOADER, LORA]
MODELS = {
    "promptgen_base_v1.5": "Florence-2-base-PromptGen-v1.5",
    "promptgen_large_v1.5": "Florence-2-large-PromptGen-v1.5",
    "promptgen_base_v2.0": "Florence-2-base-PromptGen-v2.0",
    "promptgen_large_v2.0": "Florence-2-large-PromptGen-v2.0",
}
METHODS = {
    "tags": "GENERATE_TAGS",
    "simple": "CAPTION",
    "detailed": "DETAILED_CAPTION",
    "extra": "MORE_DETAILED_CAPTION",
    "mixed": "MIXED_CAPTION",
    "extra_mixed": "MIXED_CAPTION_PLUS",
    "analyze": "ANALYZE",
}
# What the other pack's loader offered.
HUB_IDS = (
    *(f"microsoft/Florence-2-{size}" for size in ("base", "base-ft", "large", "large-ft")),
    "HuggingFaceM4/Florence-2-DocVQA",
    "thwri/CogFlorence-2.1-Large",
    "thwri/CogFlorence-2.2-Large",
    "gokaygokay/Florence-2-SD3-Captioner",
    "gokaygokay/Florence-2-Flux-Large",
    *(f"MiaoshouAI/Florence-2-{size}-PromptGen-v{v}" for size in ("base", "large") for v in ("1.5", "2.0")),
    "PJMixers-Images/Florence-2-base-Castollux-v0.5",
)
TASKS = {
    "region_caption": "OD",
    "dense_region_caption": "DENSE_REGION_CAPTION",
    "region_proposal": "REGION_PROPOSAL",
    "caption": "CAPTION",
    "detailed_caption": "DETAILED_CAPTION",
    "more_detailed_caption": "MORE_DETAILED_CAPTION",
    "caption_to_phrase_grounding": "CAPTION_TO_PHRASE_GROUNDING",
    "referring_expression_segmentation": "REFERRING_EXPRESSION_SEGMENTATION",
    "ocr": "OCR",
    "ocr_with_region": "OCR_WITH_REGION",
    "docvqa": "DOCVQA",
    "prompt_gen_tags": "GENERATE_TAGS",
    "prompt_gen_mixed_caption": "MIXED_CAPTION",
    "prompt_gen_analyze": "ANALYZE",
    "prompt_gen_mixed_caption_plus": "MIXED_CAPTION_PLUS",
}
FIELDS = tuple(field for field in ANALYSIS_FIELDS if field != "image_composition")

# Old node -> its widgets in their order, with the values that a new node had.
WIDGETS: dict[str, dict[str, Any]] = {
    TAGGER: {
        "model": "promptgen_base_v2.0",
        "folder_path": "Path to your image folder",
        "caption_method": "extra_mixed",
        "max_new_tokens": 1024,
        "num_beams": 4,
        "random_prompt": "never",
        "prefix_caption": "",
        "suffix_caption": "",
        "replace_tags": "replace_tags eg:search1:replace1;search2:replace2",
    },
    SAVER: {"save_folder": "Your save directory", "filename_prefix": "", "mode": "overwrite"},
    FLUX: {"guidance": 3.5},
    ANALYZER: {"subject_index": 0, **dict.fromkeys(FIELDS, False)},
    RUN: {
        "text_input": "",
        "task": "region_caption",
        "fill_mask": True,
        "keep_model_loaded": False,
        "max_new_tokens": 1024,
        "num_beams": 3,
        "do_sample": True,
        "output_mask_select": "",
        "seed": 1,
    },
    LOADER: {
        "model": "microsoft/Florence-2-base",
        "precision": "fp16",
        "attention": "sdpa",
        "convert_to_safetensors": False,
    },
    LOCAL_LOADER: {
        "model": "Florence-2-base",
        "precision": "fp16",
        "attention": "sdpa",
        "convert_to_safetensors": False,
    },
    LORA: {"model": "NikshepShetty/Florence-2-pixelprose"},
}
OPTIONAL = {LOADER: ["lora"], LOCAL_LOADER: ["lora"]}
"""Old node -> inputs that may be connected."""

# Old node -> inputs that are always connected where the node is used with an image.
LINKS = {
    TAGGER: ["images"],
    SAVER: ["filenames", "captions"],
    FLUX: ["clip", "caption"],
    ANALYZER: ["analyze"],
    RUN: ["image", "florence2_model"],
    LOADER: [],
    LOCAL_LOADER: [],
    LORA: [],
}
OUTPUTS = {
    TAGGER: ["images", "filenames", "captions", "folder_path", "batch_size"],
    SAVER: ["captions"],
    FLUX: ["CONDITIONING", "EMPTY CONDITIONING", "t5xxl", "clip_l", "analyze"],
    ANALYZER: ["selected analyze"],
    RUN: ["image", "mask", "caption", "data", "bbox_count"],
    LOADER: ["florence2_model"],
    LOCAL_LOADER: ["florence2_model"],
    LORA: ["lora"],
}
# What has no counterpart in ours, each with its reason.
LEFT_OUT = {
    TAGGER: {
        "folder_path": "folders are loaded by a node of their own, see web/js/oldFolders.js",
        "random_prompt": "sampling without a seed",
    },
    SAVER: {"filename_prefix": "a caption file is called after its image"},
    FLUX: {},
    ANALYZER: {"subject_index": "theirs counts from 1, and 0 is all subjects"},
    RUN: {
        "keep_model_loaded": "models are the host's to keep",
        "do_sample": "regions are those that the model finds most likely",
        "seed": "without sampling there is no use for it",
    },
    **{
        loader: {
            "attention": "there is one kind",
            "convert_to_safetensors": "files of the user are left alone",
        }
        for loader in (LOADER, LOCAL_LOADER)
    },
    LORA: {},
}
LEFT_OUT_OUTPUTS = {
    TAGGER: {"images", "filenames", "folder_path", "batch_size"},
    SAVER: set(),
    FLUX: set(),
    ANALYZER: set(),
    RUN: {"data"},
    LOADER: set(),
    LOCAL_LOADER: set(),
    LORA: set(),
}

SCHEMAS = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
"""Held equal to the hosts' own answer by ``test_locales.py``."""


class FakeComfyUI:
    """``comfy_api`` of a host, as far as replacements go."""

    def __init__(self, *, knows: bool = True, waits: bool = True, fails: bool = False) -> None:
        self.registered: list[SimpleNamespace] = []
        self.handlers: list[Callable[[dict[str, Any]], dict[str, Any]]] = []  # of prompts that are queued
        self.nodes = ModuleType("nodes")
        self.nodes.NODE_CLASS_MAPPINGS = {}  # type: ignore[attr-defined]
        self.server = ModuleType("server")
        instance = SimpleNamespace(add_on_prompt_handler=self.handlers.append)
        self.server.PromptServer = SimpleNamespace(instance=instance)  # type: ignore[attr-defined]
        latest = ModuleType("comfy_api.latest")
        latest.io = SimpleNamespace()  # type: ignore[attr-defined]
        if knows:
            latest.io.NodeReplace = self._node_replace  # type: ignore[attr-defined]
            register = self._register_later if waits else self._register
            registry = SimpleNamespace(register=self._refuse if fails else register)
            latest.ComfyAPI = lambda: SimpleNamespace(node_replacement=registry)  # type: ignore[attr-defined]
        self.module = ModuleType("comfy_api")
        self.module.latest = latest  # type: ignore[attr-defined]

    @staticmethod
    def _node_replace(
        new_node_id: str,
        old_node_id: str,
        old_widget_ids: list[str] | None = None,
        input_mapping: list[dict[str, Any]] | None = None,
        output_mapping: list[dict[str, int]] | None = None,
    ) -> SimpleNamespace:
        return SimpleNamespace(**locals())

    def _register(self, replacement: SimpleNamespace) -> None:
        self.registered.append(replacement)

    async def _register_later(self, replacement: SimpleNamespace) -> None:
        await asyncio.sleep(0)
        self.registered.append(replacement)

    async def _refuse(self, replacement: SimpleNamespace) -> None:
        raise TypeError("another kind of replacement")


def use(host: FakeComfyUI, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``nodes.replacements`` as it is imported in that host."""
    monkeypatch.setitem(sys.modules, "comfy_api", host.module)
    monkeypatch.setitem(sys.modules, "comfy_api.latest", host.module.latest)
    monkeypatch.setitem(sys.modules, "server", host.server)
    monkeypatch.setitem(sys.modules, "nodes", host.nodes)
    monkeypatch.delitem(sys.modules, "promptgen.nodes.replacements", raising=False)
    module = importlib.import_module("promptgen.nodes.replacements")
    monkeypatch.delitem(sys.modules, "promptgen.nodes.replacements")  # other tests import it anew
    return module


class Table(dict[str, SimpleNamespace]):
    """What a host is told, by old node, and what it calls with each prompt."""

    handlers: list[Callable[[dict[str, Any]], dict[str, Any]]]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    host = FakeComfyUI()
    asyncio.run(use(host, monkeypatch).register_replacements())
    told = Table({replacement.old_node_id: replacement for replacement in host.registered})
    told.handlers = host.handlers
    return told


# What hosts do ----------------------------------------------------------------------------


def in_the_browser(replacement: SimpleNamespace, values: list[Any], names: Iterable[str]) -> dict[str, Any]:
    """The widgets of the new node: saved values are found by their place, unknown names are passed over."""
    widgets: dict[str, Any] = {}
    for mapping in replacement.input_mapping or ():
        if mapping["new_id"] not in names:
            continue
        if "set_value" in mapping:
            widgets[mapping["new_id"]] = mapping["set_value"]
        elif mapping["old_id"] in replacement.old_widget_ids:
            place = replacement.old_widget_ids.index(mapping["old_id"])
            if place < len(values):
                widgets[mapping["new_id"]] = values[place]
    return widgets


def on_the_server(table: Table, prompt: Mapping[str, Any], order: Iterable[str]) -> dict[str, Any]:
    """The prompt with replaced nodes: values are found by name, absent ones are errors, and links are changed
    where they were found, which another replacement may have renamed in the meantime."""
    prompt = copy.deepcopy(dict(prompt))
    for handler in table.handlers:
        prompt = handler({"prompt": prompt})["prompt"]
    links = [
        (value[0], value[1], node, name)
        for node, content in prompt.items()
        for name, value in content["inputs"].items()
        if isinstance(value, list)
    ]
    for node in order:
        replacement = table[prompt[node]["class_type"]]
        old = prompt[node]["inputs"]
        prompt[node] = {"class_type": replacement.new_node_id, "inputs": {}}
        for mapping in replacement.input_mapping:
            prompt[node]["inputs"][mapping["new_id"]] = (
                mapping["set_value"] if "set_value" in mapping else old[mapping["old_id"]]
            )
        for source, output, target, name in links:
            for mapping in replacement.output_mapping or ():
                if source == node and mapping["old_idx"] == output:
                    prompt[target]["inputs"][name][1] = mapping["new_idx"]
    return prompt


def old_node(kind: str, links: Mapping[str, list[Any]], **values: Any) -> dict[str, Any]:
    assert set(links) - set(OPTIONAL.get(kind, ())) == set(LINKS[kind])
    assert set(values) <= set(WIDGETS[kind])
    return {"class_type": kind, "inputs": {**WIDGETS[kind], **values, **links}}


# The table --------------------------------------------------------------------------------


def test_the_nodes_are_replaced(table: Table) -> None:
    assert {old: replacement.new_node_id for old, replacement in table.items()} == {
        TAGGER: "PromptGenTagger",
        SAVER: "PromptGenSaveCaptions",
        FLUX: "PromptGenFluxTextEncode",
        ANALYZER: "PromptGenAnalyzer",
        RUN: "PromptGenVision",
        LOADER: "PromptGenModelLoader",
        LOCAL_LOADER: "PromptGenModelLoader",
        LORA: "PromptGenLora",
    }


@pytest.mark.parametrize("old", ALL)
def test_every_old_widget_has_a_place_and_a_use_or_a_reason(table: Table, old: str) -> None:
    assert table[old].old_widget_ids == list(WIDGETS[old])
    used = {mapping["old_id"] for mapping in table[old].input_mapping if "old_id" in mapping}
    assert used == {*WIDGETS[old], *LINKS[old], *OPTIONAL.get(old, ())} - set(LEFT_OUT[old])


@pytest.mark.parametrize("old", ALL)
def test_every_new_name_is_in_the_schema(table: Table, old: str) -> None:
    schema = SCHEMAS[table[old].new_node_id]
    kept_for_the_server = {ANALYZER: {"analyze"}, RUN: {"florence2_model"}}.get(old, set())
    new = [mapping["new_id"] for mapping in table[old].input_mapping]
    assert len(new) == len(set(new))
    assert set(new) - kept_for_the_server <= set(schema["inputs"])
    for mapping in table[old].input_mapping:
        assert set(mapping) in ({"new_id", "old_id"}, {"new_id", "set_value"})


@pytest.mark.parametrize("old", ALL)
def test_every_old_output_leads_to_one_of_ours_or_has_none(table: Table, old: str) -> None:
    moved = {mapping["old_idx"]: mapping["new_idx"] for mapping in table[old].output_mapping}
    assert {OUTPUTS[old][index] for index in moved} == set(OUTPUTS[old]) - LEFT_OUT_OUTPUTS[old]
    assert {str(index) for index in moved.values()} <= set(SCHEMAS[table[old].new_node_id]["outputs"])
    assert len(set(moved.values())) == len(moved)


def test_outputs_lead_where_they_should(table: Table) -> None:
    names = {
        old: {
            OUTPUTS[old][mapping["old_idx"]]: SCHEMAS[replacement.new_node_id]["outputs"][
                str(mapping["new_idx"])
            ]["name"]
            for mapping in replacement.output_mapping
        }
        for old, replacement in table.items()
    }
    assert names == {
        TAGGER: {"captions": "caption"},
        SAVER: {"captions": "saved captions"},
        FLUX: {
            "CONDITIONING": "conditioning",
            "EMPTY CONDITIONING": "empty conditioning",
            "t5xxl": "t5xxl",
            "clip_l": "clip_l",
            "analyze": "analysis",
        },
        ANALYZER: {"selected analyze": "sentence"},
        RUN: {"image": "overlay", "mask": "mask", "caption": "text", "bbox_count": "count"},
        LOADER: {"florence2_model": "model"},
        LOCAL_LOADER: {"florence2_model": "model"},
        LORA: {"lora": "LoRA"},
    }


# Values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), MODELS.items())
def test_old_names_of_checkpoints_are_known(old: str, new: str) -> None:
    entry = find_entry(old)
    assert entry is not None
    assert entry.name == new
    assert resolve(old).entry == entry
    assert new in resolve(old).names, "the folder that is looked for"


def test_the_adapter_of_the_other_loader_is_known() -> None:
    known = {entry.hub_id for entry in adapter_catalogue().values()}
    assert WIDGETS[LORA]["model"] in known


@pytest.mark.parametrize("hub_id", HUB_IDS)
def test_checkpoints_of_the_other_loader_are_known(hub_id: str) -> None:
    entry = find_entry(hub_id)
    assert entry is not None
    assert entry.hub_id == hub_id
    assert find_entry(hub_id.partition("/")[2]) == entry, "the folder in models/LLM"


@pytest.mark.parametrize(("old", "new"), [*METHODS.items(), *TASKS.items()])
def test_old_names_of_instructions_are_known(old: str, new: str) -> None:
    assert find_instruction(old).name == new


def test_aliases_are_nobody_elses_name() -> None:
    entries = catalogue().values()
    names = [
        name.casefold() for entry in entries for name in (entry.name, entry.hub_id or "-", *entry.aliases)
    ]
    names = [name for name in names if name != "-"]
    assert len(set(names)) == len(names)


def test_the_old_example_of_a_replacement_changes_nothing() -> None:
    options = TagOptions(replace=WIDGETS[TAGGER]["replace_tags"])
    assert edit_prose("A girl on a beach, searching.", options) == "A girl on a beach, searching."
    assert edit_tags("1girl, replace_tags, search", options) == ["1girl", "replace_tags", "search"]


def test_a_saved_tagger_in_the_browser(table: Table) -> None:
    saved = {
        **WIDGETS[TAGGER], "model": "promptgen_large_v1.5", "caption_method": "mixed", "num_beams": 5,
        "prefix_caption": "trigger", "suffix_caption": "end", "replace_tags": "cat:dog",
    }  # fmt: skip
    widgets = in_the_browser(table[TAGGER], list(saved.values()), SCHEMAS["PromptGenTagger"]["inputs"])
    assert widgets == {
        "checkpoint": "promptgen_large_v1.5",
        "instruction": "mixed",
        "num_beams": 5,
        "max_new_tokens": 1024,
        "prefix": "trigger",
        "suffix": "end",
        "replace": "cat:dog",
    }
    GenerationOptions(num_beams=widgets["num_beams"], max_new_tokens=widgets["max_new_tokens"])


def test_a_saved_flux_encoder_in_the_browser(table: Table) -> None:
    names = SCHEMAS["PromptGenFluxTextEncode"]["inputs"]
    assert in_the_browser(table[FLUX], [4.5], names) == {"guidance": 4.5}


def test_a_saved_saver_in_the_browser(table: Table) -> None:
    names = SCHEMAS["PromptGenSaveCaptions"]["inputs"]
    widgets = in_the_browser(table[SAVER], ["/data/set", "x_", "append"], names)
    assert widgets == {"folder": "/data/set", "mode": "append"}


@pytest.mark.parametrize("saved", [10, 9, 8, 7, 5])
def test_a_saved_run_of_each_release_in_the_browser(table: Table, saved: int) -> None:
    """Each release saved one value more at the end, the last one that of control_after_generate."""
    values = ["a red car", "ocr", False, True, 512, 4, False, "0,car", 7, "fixed"][:saved]
    widgets = in_the_browser(table[RUN], values, SCHEMAS["PromptGenVision"]["inputs"])
    wanted: dict[str, Any] = {"text_input": "a red car", "task": "ocr", "fill": False, "max_new_tokens": 512}
    wanted |= {"checkpoint": "Florence-2-base-ft"} | ({"num_beams": 4} if saved > 5 else {})
    assert widgets == wanted | ({"select": "0,car"} if saved > 7 else {})


@pytest.mark.parametrize("old", [LOADER, LOCAL_LOADER])
@pytest.mark.parametrize("saved", [4, 3, 2])
def test_a_saved_loader_of_each_release_in_the_browser(table: Table, old: str, saved: int) -> None:
    values = ["microsoft/Florence-2-large", "bf16", "eager", True][:saved]
    names = SCHEMAS["PromptGenModelLoader"]["inputs"]
    assert in_the_browser(table[old], values, names) == {
        "checkpoint": "microsoft/Florence-2-large",
        "precision": "bf16",
    }


@pytest.mark.parametrize("index", range(len(FIELDS)))
def test_a_saved_analyzer_in_the_browser(table: Table, index: int) -> None:
    switches = [place == index for place in range(len(FIELDS))]
    widgets = in_the_browser(table[ANALYZER], [2, *switches], SCHEMAS["PromptGenAnalyzer"]["inputs"])
    assert widgets == {"all_fields": False, **dict(zip(FIELDS, switches, strict=True))}


# Whole prompts ----------------------------------------------------------------------------


def chain_of(image: str) -> dict[str, Any]:
    """A tagger whose analysis goes to an analyzer, as users wired them."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": old_node(TAGGER, {"images": ["1", 0]}, caption_method="analyze", num_beams=3, prefix_caption=""),
        "3": old_node(ANALYZER, {"analyze": ["2", 2]}, location=True, clothing=True, background=True),
    }


@pytest.mark.parametrize("order", list(itertools.permutations(["2", "3"])))
def test_the_order_in_which_the_server_replaces_makes_no_difference(
    table: Table, order: tuple[str, ...]
) -> None:
    new = on_the_server(table, chain_of("x.png"), order)
    assert new["2"]["class_type"] == "PromptGenTagger"
    assert new["2"]["inputs"]["image"] == ["1", 0]
    assert new["3"]["inputs"]["analysis"] == ["2", 0], "captions were output 2"


def test_the_server_finds_all_that_it_looks_for_where_nothing_optional_is_connected(
    table: Table,
) -> None:
    prompt = {
        "1": old_node(FLUX, {"clip": ["8", 0], "caption": ["9", 0]}, guidance=2.0),
        "2": old_node(ANALYZER, {"analyze": ["1", 4]}),
    }
    for order in itertools.permutations(prompt):
        new = on_the_server(table, prompt, order)
        assert new["1"]["inputs"] == {"clip": ["8", 0], "caption": ["9", 0], "guidance": 2.0}
        assert new["2"]["inputs"]["analysis"] == ["1", 4]


@pytest.mark.parametrize("old", [LOADER, LOCAL_LOADER])
def test_an_adapter_goes_with_its_model(table: Table, old: str) -> None:
    prompt = {"1": old_node(LORA, {}), "2": old_node(old, {"lora": ["1", 0]}), "3": old_node(old, {})}
    for order in itertools.permutations(prompt):
        new = on_the_server(table, prompt, order)
        assert new["1"]["inputs"] == {"lora": WIDGETS[LORA]["model"], "strength": 1.0}
        assert new["2"]["inputs"]["lora"] == ["1", 0]
        assert new["3"]["inputs"]["lora"] is None
    # whatever else is sent is left as it is
    for message in ({}, {"prompt": None}, {"prompt": {"last_node_id": 3, "4": {"class_type": ["x"]}}}):
        for handler in table.handlers:
            assert handler(copy.deepcopy(message)) == message


@pytest.mark.parametrize("old", [RUN, TAGGER, LOADER, LOCAL_LOADER])
def test_the_server_finds_what_prompts_of_older_releases_lack(table: Table, old: str) -> None:
    always = {
        RUN: {"text_input", "task", "fill_mask"},  # all that its first release had
        TAGGER: {"model", "folder_path", "caption_method", "max_new_tokens", "num_beams", "random_prompt"},
        LOADER: {"model"},
        LOCAL_LOADER: {"model"},
    }
    links = {name: ["9", 0] for name in LINKS[old]}
    whole = {"1": old_node(old, links)}
    values = {name: value for name, value in WIDGETS[old].items() if name in always[old]}
    least = {"1": {"class_type": old, "inputs": links | values}}
    new, wanted = (on_the_server(table, prompt, ["1"])["1"]["inputs"] for prompt in (least, whole))
    if old == TAGGER:
        assert new["replace"] == ""
        del new["replace"], wanted["replace"]  # theirs was an explanation
    assert new == wanted


@pytest.mark.parametrize("old", [RUN, TAGGER])
def test_numbers_that_are_too_large_for_ours(table: Table, old: str) -> None:
    links = {name: ["9", 0] for name in LINKS[old]}
    prompt = {"1": old_node(old, links, max_new_tokens=4096, num_beams=64)}
    new = on_the_server(table, prompt, ["1"])["1"]["inputs"]
    assert (new["max_new_tokens"], new["num_beams"]) == (1024, 16)
    prompt["1"]["inputs"]["num_beams"] = ["8", 0]
    assert on_the_server(table, prompt, ["1"])["1"]["inputs"]["num_beams"] == ["8", 0]


def test_prompts_for_a_pack_that_is_installed_stay_as_they_are(table: Table) -> None:
    sys.modules["nodes"].NODE_CLASS_MAPPINGS[RUN] = object  # type: ignore[attr-defined]
    links = {name: ["9", 0] for name in LINKS[RUN]}
    prompt = {"1": old_node(RUN, links, num_beams=64)}
    del prompt["1"]["inputs"]["output_mask_select"]
    for handler in table.handlers:
        assert handler(copy.deepcopy({"prompt": prompt})) == {"prompt": prompt}


@pytest.mark.comfyui
def test_an_input_without_a_connection_may_be_named(table: Table, host: Host) -> None:
    old = {"1": old_node(LOADER, {}), "2": old_node(LOADER, {"lora": ["3", 0]})}
    new = on_the_server(table, old, ["1", "2"])
    new["3"] = {"class_type": "PromptGenLora", "inputs": {"lora": "nowhere", "strength": 1.0}}
    image = host.upload(sorted((ROOT / "examples").glob("*.png"))[0])
    new["4"] = {"class_type": "LoadImage", "inputs": {"image": image}}
    for number, loader in (("5", "1"), ("6", "2")):
        new[loader]["inputs"] |= {"checkpoint": "demo", "precision": "fp32"}
        inputs = {"image": ["4", 0], "checkpoint": "demo", "instruction": "CAPTION", "model": [loader, 0]}
        new[number] = {"class_type": "PromptGenTagger", "inputs": inputs}
    without = host.run({key: new[key] for key in ("1", "4", "5")})
    assert without.succeeded, without.error
    entry = host.run({key: new[key] for key in ("2", "3", "4", "6")})
    assert entry.error is not None
    assert "There is no LoRA 'nowhere' here" in entry.error["exception_message"]


@pytest.mark.comfyui
def test_a_replaced_prompt_runs(table: Table, host: Host) -> None:
    image = host.upload(sorted((ROOT / "examples").glob("*.png"))[0])
    new = on_the_server(table, chain_of(image), ["2", "3"])
    new["2"]["inputs"]["checkpoint"] = "demo"  # the only model at hand
    ours = {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {
            "class_type": "PromptGenTagger",
            "inputs": {"image": ["1", 0], "checkpoint": "demo", "instruction": "ANALYZE", "num_beams": 3},
        },
        "3": {
            "class_type": "PromptGenAnalyzer",
            "inputs": {
                "analysis": ["2", 0], "all_fields": False, "location": True, "clothing": True,
                "background": True,
            },
        },
    }  # fmt: skip
    got, wanted = host.run(new), host.run(ours)
    assert got.error is None
    assert got.texts("2") == wanted.texts("2")
    assert got.texts("3") == wanted.texts("3")
    assert "background" in wanted.texts("2")[0]


def detection_of(image: str, task: str, **values: Any) -> dict[str, Any]:
    """A checkpoint, what it is asked, and a picture of the answer."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": old_node(LOADER, {}, precision="fp32"),
        "3": old_node(RUN, {"image": ["1", 0], "florence2_model": ["2", 0]}, task=task, **values),
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
        "5": {"class_type": "PreviewAny", "inputs": {"source": ["3", 2]}},
    }


@pytest.mark.comfyui
@pytest.mark.parametrize("order", list(itertools.permutations(["2", "3"])))
def test_a_replaced_detection_runs(table: Table, host: Host, order: tuple[str, ...]) -> None:
    image = host.upload(ROOT / "examples" / "circle-heart-square.png")
    new = on_the_server(table, detection_of(image, "region_caption"), order)
    assert new["5"]["inputs"]["source"] == ["3", 3], "the caption was output 2"
    new["2"]["inputs"]["checkpoint"] = "demo"  # the only model at hand
    entry = host.run(new)
    assert entry.error is None
    assert len(entry.outputs["4"]["images"]) == 1
    found = [line.partition(": ")[2] for line in entry.texts("3")[0].splitlines()]
    assert len(found) == 3
    assert entry.texts("5") == [", ".join(found)]


@pytest.mark.comfyui
def test_a_replaced_caption_runs_and_has_no_picture(table: Table, host: Host) -> None:
    image = host.upload(ROOT / "examples" / "circle-heart-square.png")
    new = on_the_server(table, detection_of(image, "caption"), ["2", "3"])
    new["2"]["inputs"]["checkpoint"] = "demo"
    entry = host.run(new)
    assert "4" not in entry.outputs
    assert entry.texts("5") == entry.texts("3") != [""]


@pytest.mark.comfyui
@pytest.mark.parametrize("method", METHODS)
def test_the_tagger_takes_every_old_instruction(table: Table, host: Host, method: str) -> None:
    image = host.upload(sorted((ROOT / "examples").glob("*.png"))[0])
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": old_node(TAGGER, {"images": ["1", 0]}, caption_method=method),
    }
    old = on_the_server(table, prompt, ["2"])
    old["2"]["inputs"]["checkpoint"] = "demo"
    new = copy.deepcopy(old)
    new["2"]["inputs"] |= {"instruction": METHODS[method], "replace": ""}
    got = host.run(old)
    assert got.error is None
    assert got.texts("2") == host.run(new).texts("2")


# Registration -----------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [True, False])
def test_hosts_are_told(monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    host = FakeComfyUI(waits=waits)
    asyncio.run(use(host, monkeypatch).register_replacements())
    assert [replacement.old_node_id for replacement in host.registered] == ALL
    for replacement in host.registered:
        json.dumps(vars(replacement))  # the page is sent it


def test_hosts_that_do_not_know_replacements_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = FakeComfyUI(knows=False)
    with caplog.at_level(logging.DEBUG):
        asyncio.run(use(host, monkeypatch).register_replacements())
    assert not host.registered
    assert not [record for record in caplog.records if record.name.startswith("promptgen")]


def test_hosts_that_know_them_in_another_way_still_get_the_nodes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = FakeComfyUI(fails=True)
    asyncio.run(use(host, monkeypatch).register_replacements())
    assert "cannot be replaced" in caplog.text
    assert "another kind of replacement" in caplog.text
