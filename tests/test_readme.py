"""The documents keep their word: examples run, commands parse, concept text reads, links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from erasure_core import cli
from erasure_core.concepts import parse_concepts

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_examples_run_in_order(tmp_path):
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks("python")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path('readme.py')"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "8 of 8 layers" in done.stdout
    names = {"no-circle.safetensors", "no-circle-lora.safetensors", "half-a-star.png", "readme.py"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_the_commands_are_understood():
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    tools = [shlex.split(line, comments=True) for line in commands]
    ours = [words[3:] for words in tools if words[:3] == ["python", "-m", "erasure_core"]]
    for words in ours:
        cli.build_parser().parse_args(words)
    assert {words[0] for words in ours} == {"erase", "train", "generate", "inspect", "convert"}
    assert [words for words in tools if words[1] == "install.py"] == [
        ["python3", "install.py", "demo"],
        ["python3", "install.py", "test"],
    ]
    assert len(ours) + 2 == len(commands)


def test_the_concept_text_reads_as_described():
    (text,) = blocks("concepts")
    found = parse_concepts(text)
    assert [(c.target, c.kind, c.resolved_anchor(), c.weight) for c in found] == [
        ("circle", "object", "square", 1.5),
        ("Van Gogh", "style", "art", 1.0),
        ("pipe | dream", "object", "5 @ night", 1.0),
    ]
    assert found.preserve == ("a red square",)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not t.startswith(("http://", "https://", "#"))]
    assert [target for target in targets if not (ROOT / target).exists()] == []
