"""Help pages and translations say what the nodes and the methods are: they cannot go stale unnoticed."""

import json
import re
import urllib.request

import pytest
from comfy import PACK, ROOT

from erasure_core.closed_form import METHODS, explain
from erasure_core.guidance import PRESETS, attention, text
from erasure_core.guidance import explain as explain_guidance
from erasure_core.options import explain_options
from erasure_core.training import METHODS as TRAINED
from erasure_core.training.settings import Training

KINDS = (
    "DemoModel",
    "Concepts",
    "Erase",
    "Load",
    "Save",
    "Apply",
    "Inspect",
    "Firewall",
    "AttentionNegative",
    "TextSteer",
    "NegativeGuidance",
    "GuidancePlot",
    "Train",
)
IDS = [f"Membrane{kind}" for kind in KINDS]
DOCS = ROOT / "web" / "docs"
PAGES = {"en": "{}.md", "zh": "{}/zh.md"}
LOCALES = ROOT / "locales"
HEADINGS = {"en": ("## Inputs", "## Outputs"), "zh": ("## 输入", "## 输出")}


def page(node, language):
    return (DOCS / PAGES[language].format(node)).read_text(encoding="utf-8")


def table(text, heading):
    """The first column of the first table below a heading."""
    part = re.split(r"\n#+ ", text.partition(f"\n{heading}\n")[2])[0]
    blocks = [block for block in part.split("\n\n") if block.lstrip().startswith("|")]
    return [row[0] for row in cells(blocks[0])][1:] if blocks else []


def cells(text):
    """Rows of a Markdown table as lists of texts, heading included."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def names(column):
    """Names in a column; what stands behind a name is a translation."""
    return [re.match(r"`(\w+)`", cell).group(1) for cell in column]


def translations(language, file):
    return json.loads((LOCALES / language / file).read_text(encoding="utf-8"))


def keys(value, path=()):
    """Paths to all texts of a nested dictionary."""
    if not isinstance(value, dict):
        return {path}
    return {found for key, inner in value.items() for found in keys(inner, (*path, key))}


def plain(text):
    """What the page shows of a translation: its messages write special characters as {'@'}."""
    return re.sub(r"\{'([{}|@])'\}", r"\1", text)


@pytest.fixture(scope="module")
def known(comfy_server):
    """Our nodes as the host describes them."""
    found = comfy_server.get("/object_info", timeout=120)
    return {node: found[node] for node in IDS}


def inputs_of(info):
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


EXPLAINED = [("MembraneErase", method, explain(method)) for method in METHODS]
EXPLAINED += [("MembraneAttentionNegative", method, attention.explain(method)) for method in attention.METHODS]
EXPLAINED += [("MembraneTextSteer", method, text.explain(method)) for method in text.METHODS]
EXPLAINED += [("MembraneNegativeGuidance", method, explain_guidance(method)) for method in PRESETS]
EXPLAINED += [("MembraneTrain", "all", explain_options(Training))]
EXPLAINED += [("MembraneTrain", name, explain_options(module.Settings)) for name, module in TRAINED.items()]
# settings of the library that are inputs of their own here
ON_THE_NODE = {
    "MembraneNegativeGuidance": {"strength", "mode", "start", "end"},
    "MembraneTrain": {"steps", "rank", "seed"},
}
SETTING = re.compile(r"^  (\w+) \((.*?); default (.*?)\): (.*)$", re.MULTILINE)
IN_COMMON = {"MembraneTrain": SETTING.findall(explain_options(Training))}  # told once, under "all"


@pytest.mark.parametrize("language", PAGES)
@pytest.mark.parametrize(("node", "method", "said"), EXPLAINED, ids=[method for _, method, _ in EXPLAINED])
def test_the_settings_of_every_method_are_in_the_help(node, method, said, language):
    common = () if method == "all" else IN_COMMON.get(node, ())
    told = [row for row in SETTING.findall(said) if row[0] not in ON_THE_NODE.get(node, ()) and row not in common]
    assert told
    section = page(node, language).partition(f"\n### {method}\n")[2]
    rows = [[cell.replace("\\|", "|") for cell in row] for row in cells(re.split(r"\n#+ ", section)[0])][1:]
    count = 4 if language == "en" else 3  # the meaning is translated, names and values are not
    assert [tuple(row[:count]) for row in rows] == [
        (f"`{name}`", values, default, meaning)[:count] for name, values, default, meaning in told
    ]


@pytest.mark.parametrize("node", IDS)
def test_both_languages_have_the_same_parts(node):
    shapes = [[line.split(" ")[0] for line in page(node, p).splitlines() if line.startswith("#")] for p in PAGES]
    assert shapes[0] == shapes[1]
    rows = [len(cells(page(node, language))) for language in PAGES]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("file", ["nodeDefs.json", "settings.json", "main.json"])
def test_both_languages_have_the_same_texts(file):
    assert keys(translations("en", file)) == keys(translations("zh", file))


@pytest.mark.parametrize("language", PAGES)
@pytest.mark.parametrize("node", IDS)
def test_the_help_names_every_input_and_output(known, node, language):
    inputs, outputs = HEADINGS[language]
    text = page(node, language)
    assert names(table(text, inputs)) == list(inputs_of(known[node]))
    assert names(table(text, outputs)) == list(known[node]["output_name"])


@pytest.mark.parametrize("node", IDS)
def test_english_texts_equal_those_of_the_node(known, node):
    info, told = known[node], translations("en", "nodeDefs.json")[node]
    assert told["display_name"] == info["display_name"]
    assert plain(told["description"]) == info["description"]
    expected = {name: spec[1]["tooltip"] for name, spec in inputs_of(info).items()}
    assert {name: plain(text["tooltip"]) for name, text in told.get("inputs", {}).items()} == expected
    outputs = [(text["name"], plain(text["tooltip"])) for text in told["outputs"].values()]
    assert outputs == list(zip(info["output_name"], info["output_tooltips"], strict=True))
    assert set(translations("en", "nodeDefs.json")) == set(IDS)


@pytest.mark.parametrize("node", IDS)
@pytest.mark.parametrize("language", PAGES)
def test_the_host_serves_the_help(comfy_server, node, language):
    path = f"{comfy_server.url}/extensions/{PACK}/docs/{PAGES[language].format(node)}"
    with urllib.request.urlopen(path, timeout=30) as answer:
        assert answer.read().decode() == page(node, language)


def test_the_host_serves_the_translations(comfy_server):
    served = comfy_server.get("/i18n")
    for language in PAGES:
        assert set(served[language]["nodeDefs"]) >= set(IDS)
        assert "Membrane_Panel_Show" in served[language]["settings"]
