"""The example workflows in the real page: they open, run to the end, and the panels show what was done."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from comfy import ROOT
from graphs import Client
from workflows import EXAMPLES, example, prompt_of

DRIVER = Path(__file__).with_name("frontend.mjs")


def drive(*arguments):
    """What the page's driver saw."""
    command = [shutil.which("node"), str(DRIVER), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def see(comfy_server):
    """Drives the page once per task; skips with the reason where a browser is missing."""
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    missing = drive("", "found")
    if missing:
        pytest.skip(missing)
    seen = {}

    def see(task):
        if task not in seen:
            seen[task] = drive(comfy_server.url, task)
        return seen[task]

    return see


@pytest.fixture
def has_nodes2(comfy_server):
    """1.41 is the oldest frontend tried whose Nodes 2.0 shows DOM widgets; in 1.27 it is a sketch without them."""
    text = comfy_server.get("/system_stats")["system"]["required_frontend_version"]
    if tuple(map(int, text.split(".")[:2])) < (1, 41):
        pytest.skip(f"frontend {text} has no Nodes 2.0 worth testing")


def ours(errors):
    return [line for line in errors if "membrane" in line.lower()]


PARTS = ("erase", "load", "firewall", "chain", "windowed", "sld", "attention", "stages", "train")  # as EXAMPLES


@pytest.mark.parametrize("part", PARTS)
def test_the_workflows_open_and_run_to_the_end(see, part):
    facts = see("canvas")[part]
    assert facts["missing"] == []
    assert facts["end"] == facts["again"] == ["execution_success", ""]
    assert ours(see("canvas")["errors"]) == []


def test_the_panel_says_what_will_appear_then_the_receipt_and_the_gains(see):
    facts = see("canvas")["erase"]
    (hint,), (panel,) = facts["hint"]["MembraneErase"], facts["first"]["MembraneErase"]
    assert hint["text"].startswith("After a run") and hint["visible"]
    assert panel["visible"] and panel["fits"]
    assert panel["prompts"] == ["a red circle"] and panel["numbers"] == ["1.00"]
    for text in ("without circle", "8 of 8", "‖T−I‖", "drift"):
        assert text in panel["text"]


def test_the_gains_follow_the_prompt_though_the_node_is_cached(see):
    facts = see("canvas")["erase"]
    assert {"MembraneErase", "MembraneConcepts", "MembraneDemoModel"} <= set(facts["cached"])
    (panel,) = facts["second"]["MembraneErase"]
    assert panel["prompts"] == ["a blue star"]
    assert "8 of 8" in panel["text"]


def test_the_panel_survives_undo_and_can_be_hidden(see):
    facts = see("canvas")["erase"]
    (rebuilt,), (hidden,) = facts["rebuilt"]["MembraneErase"], facts["hidden"]["MembraneErase"]
    assert rebuilt["prompts"] == ["a blue star"] and "8 of 8" in rebuilt["text"]
    assert not hidden["visible"]


def test_a_reloaded_page_shows_the_receipt_of_a_cached_node(see):
    facts = see("canvas")["erase"]
    (panel,) = facts["reloaded"]["MembraneErase"]
    assert facts["reloadedEnd"] == ["execution_success", ""]
    assert panel["prompts"] == ["a green moon"] and "8 of 8" in panel["text"]


def test_nothing_of_the_panel_is_queued_or_saved(see, comfy_server):
    known = comfy_server.get("/object_info", timeout=120)
    for part in PARTS:
        for node in see("canvas")[part]["prompt"].values():
            inputs = known[node["class_type"]]["input"]
            names = {*inputs.get("required", {}), *inputs.get("optional", {})}
            assert set(node["inputs"]) <= names or not node["class_type"].startswith("Membrane")
    saved = dict(see("canvas")["erase"]["saved"])
    assert saved["MembraneErase"] == ["uce", 1, ""]


def test_every_membrane_of_a_chain_is_shown_for_every_prompt(see):
    panels = see("canvas")["load"]["first"]
    (apply,), (save,), (inspect,) = (panels[f"Membrane{name}"] for name in ("Apply", "Save", "Inspect"))
    shown = dict(zip(apply["prompts"], zip(apply["numbers"][::2], apply["numbers"][1::2], strict=True), strict=True))
    assert shown == {"a red circle": ("1.00", "0"), "a green heart": ("0", "0.90")}
    assert "no-circle-no-heart.safetensors" in save["text"] and "sum, solved jointly" in save["text"]
    assert "gate       circle, disc" in inspect["text"]
    assert ["solved again" in load["text"] for load in panels["MembraneLoad"]] == [True, True]


def test_training_shows_what_it_changed_and_is_not_done_again_for_another_prompt(see):
    facts = see("canvas")["train"]
    (hint,), (panel,), (other,) = (facts[when]["MembraneTrain"] for when in ("hint", "first", "second"))
    assert hint["text"].startswith("After a run") and "48 of 48" in panel["text"] and "calibrated" in panel["text"]
    assert (panel["prompts"], panel["numbers"]) == (["a red star"], ["1.00"])
    assert (other["prompts"], other["numbers"]) == (["a blue circle"], ["0"])


def test_loading_keeps_what_identifies_the_file_in_the_workflow(see):
    first, second = see("canvas")["load"]["properties"]
    assert len(first["sha256"]) == 64 and first["bytes"] > 1000
    assert first["recipe"]["method"] == "sum" and set(first["gate"]["phrases"]) == {"circle", "disc", "heart"}
    assert second["recipe"]["concepts"][0]["target"] == "heart"


def test_the_firewall_shows_which_rules_each_prompt_touches(see):
    facts = see("canvas")["firewall"]
    (panel,) = facts["first"]["MembraneFirewall"]
    assert sorted(panel["prompts"]) == ["a green star", "a red circle"] and panel["numbers"] == ["1.00"]
    for text in ("touches no rule", "rules4", "circle, heart, moon, cross"):
        assert text in panel["text"]
    assert "MembraneFirewall" in facts["cached"]
    (panel,) = facts["second"]["MembraneFirewall"]
    assert panel["prompts"] == ["two hearts"] and panel["numbers"] == ["1.00"] and "touches no" not in panel["text"]


def test_the_firewall_says_what_it_did_not_judge(see):
    facts = see("canvas")["firewall"]
    assert facts["unknown"] == ["execution_success", ""]
    (panel,) = facts["third"]["MembraneFirewall"]
    assert sorted(panel["prompts"]) == ["a red circle", "text from elsewhere"] and panel["numbers"] == ["1.00"]
    assert "not judged" in panel["text"] and "passes as it is" in panel["text"]


def test_two_prompts_of_one_batch_have_gains_of_their_own(see):
    facts = see("canvas")["chain"]
    (apply,), (inspect,) = facts["first"]["MembraneApply"], facts["first"]["MembraneInspect"]
    rows = [apply["numbers"][i : i + 4] for i in range(0, len(apply["numbers"]), 4)]
    shown = dict(zip(apply["prompts"], rows, strict=True))
    assert shown == {
        "a red circle": ["1.00", "0", "1.00", "0"],
        "a green heart in striped style": ["0", "1.00", "0", "0.80"],
    }
    assert inspect["prompts"] == ["a red heart beside a striped disc"]
    assert inspect["numbers"] == ["1.00", "1.00", "1.00", "0.80"] and inspect["fits"]
    (apply,) = facts["second"]["MembraneApply"]
    assert dict(zip(apply["prompts"], [apply["numbers"][:4], apply["numbers"][4:]], strict=True)) == {
        "a blue star": ["0", "0", "0", "0"],
        "a green heart in striped style": ["0", "1.00", "0", "0.80"],
    }


def test_thirty_membranes_stay_readable(see):
    """The open ones on top, the strongest first; the others folded, each with the reason."""
    thirty = see("canvas")["chain"]["thirty"]
    assert thirty["names"] == [f"membrane {i}" for i in (3, 10, 17, 24)]
    assert thirty["numbers"] == ["0.97", "0.90", "0.83", "0.76"]
    assert thirty["summary"] == ["26 of 30 closed"]
    assert len(thirty["why"]) == 26 and set(thirty["why"]) == {"not named", "neither named nor described"}


def test_the_panel_is_part_of_the_node_in_nodes_2(see, has_nodes2):
    facts = see("nodes2")
    assert facts["end"] == ["execution_success", ""] and ours(facts["errors"]) == []
    (panel,) = facts["first"]["MembraneErase"]
    assert panel["inNode"] and panel["visible"] and panel["fits"]
    assert panel["prompts"] == ["a red circle"] and panel["numbers"] == ["0.90"]


def test_the_page_speaks_chinese(see):
    facts = see("chinese")
    (hint,), (panel,) = facts["hint"]["MembraneErase"], facts["first"]["MembraneErase"]
    assert facts["erase"] == {"title": "擦除 (Membrane)", "widgets": ["方法", "强度", "选项", "membrane_panel"]}
    assert hint["text"].startswith("运行后") and "层数" in panel["text"]
    assert ours(facts["errors"]) == []


@pytest.mark.parametrize(("name", "part"), list(zip(EXAMPLES, PARTS, strict=True)))
def test_the_page_posts_what_the_tests_post(see, comfy_server, name, part):
    known = comfy_server.get("/object_info", timeout=120)
    posted = {
        ident: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for ident, node in see("canvas")[part]["prompt"].items()
    }
    assert posted == prompt_of(example(name), known)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_run_without_the_page(comfy_server, name):
    prompt = prompt_of(example(name), comfy_server.get("/object_info", timeout=120))
    for node in prompt.values():  # newer hosts give no outputs of a prompt that is cached as a whole
        for key in {"KSampler": ("seed",), "PrimitiveInt": ("value",)}.get(node["class_type"], ()):
            if not isinstance(node["inputs"][key], list):
                node["inputs"][key] = 1000
    outputs = Client(comfy_server).run(prompt, extra_pnginfo={"workflow": example(name)})
    assert any("images" in output for output in outputs.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_have_a_picture_and_no_path(name):
    text = json.dumps(example(name))
    assert (ROOT / "example_workflows" / f"{name}.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert [mark for mark in ("/home", "/root", "/tmp", "/work", "/Users", ":\\") if mark in text] == []


def test_every_kind_of_negative_says_what_it_did(see):
    """Of each workflow: node -> what its panel says, and the cost; all of it is visible and fits."""
    said = {
        "windowed": {"MembraneNegativeGuidance": ["40 evaluations, 1.00 times", "0.17 to 0.5 of the run (surgical)"]},
        "sld": {"MembraneNegativeGuidance": ["60 evaluations, 1.50 times", "sld"]},
        "attention": {"MembraneAttentionNegative": ["a circle", "4 of cross-attention", "0.4 of it on others"]},
        "stages": {
            "MembraneTextSteer": ["projection", "every prompt"],
            "MembraneAttentionNegative": ["vsf", "prompts that name it"],
            "MembraneNegativeGuidance": ["51 evaluations, 1.27 times", "0 to 0.5 of the run (balanced)"],
        },
    }
    for part, nodes in said.items():
        facts = see("canvas")[part]
        for node, words in nodes.items():
            hint, panel = facts["hint"][node][0], facts["first"][node][0]
            assert hint["text"].startswith("After a run") and hint["visible"], (part, node)
            assert panel["visible"] and panel["fits"], (part, node)
            assert [text for text in words if text not in panel["text"]] == [], (part, node)


@pytest.mark.parametrize("task", ["nodes2", "chinese"])
def test_negative_guidance_draws_what_it_did(see, request, task):
    if task == "nodes2":
        request.getfixturevalue("has_nodes2")
    facts = see(task)["guidance"]
    shown = {when: facts[when]["MembraneNegativeGuidance"][0] for when in ("hint", "first", "second")}
    assert facts["end"] == facts["again"] == ["execution_success", ""]
    assert facts["drawn"]["paths"] == 3 and facts["drawn"]["dots"] >= 3 * 6
    assert facts["drawn"]["width"] > 100 and facts["drawn"]["height"] > 20
    assert shown["first"]["visible"] and shown["first"]["fits"] and shown["first"]["inNode"] is (task == "nodes2")
    words = {"nodes2": ("After a run: what it did", "mask density"), "chinese": ("运行后显示：每一步", "遮罩密度")}[
        task
    ]
    assert words[0] in shown["hint"]["text"] and words[1] in shown["first"]["text"]
    assert "does nothing. Use a scale above 1" in shown["second"]["text"]
    assert "does nothing" not in shown["first"]["text"]
