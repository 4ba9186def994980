"""The node layer stays thin: one folder speaks to the host, the others to it and to the core."""

import ast
from pathlib import Path

import pytest

NODES = Path(__file__).resolve().parents[1] / "nodes"
HOST = {"comfy", "folder_paths", "server", "execution", "comfy_extras", "comfy_execution", "comfy_api", "app", "utils"}
SPEAKS = sorted((NODES / "host").glob("*.py"))
FILES = sorted(path for path in NODES.rglob("*.py") if path not in SPEAKS)


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def absolute_imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (item.name.split(".")[0] for item in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]


def names(tree):
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def test_the_check_sees_what_the_folder_imports():
    assert {"comfy", "folder_paths"} <= {name for path in SPEAKS for name in absolute_imports(parsed(path))}
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_that_folder_knows_the_host(path):
    tree = parsed(path)
    assert not HOST & set(absolute_imports(tree)), "ask nodes/host"
    assert not HOST & names(tree)


@pytest.mark.parametrize("path", SPEAKS, ids=lambda path: path.name)
def test_it_can_be_read_without_a_host(path):
    at_import = [node for node in parsed(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not HOST & set(absolute_imports(ast.Module(at_import, [])))
