"""What the nodes ask of ComfyUI, read from their own text, so that no list has to be kept beside it."""

import ast
from dataclasses import dataclass, field
from pathlib import Path

NODES = Path(__file__).resolve().parents[2] / "nodes"
MODULES = ("comfy", "folder_paths", "server")


@dataclass
class Wanted:
    """Dotted names of modules' members, ``variable.attribute`` chains of the host's objects, how each is called, and
    what our subclasses put in place of the host's members."""

    names: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    calls: set[tuple[str, int, tuple[str, ...]]] = field(default_factory=set)
    overrides: set[tuple[str, str]] = field(default_factory=set)
    untyped: set[str] = field(default_factory=set)  # parameters of type Any whose attributes are used


def chain(node):
    """``a.b.c`` of an expression, None if it is anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def aliases(tree):
    """Local name -> dotted name of what it was imported as."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                found[item.asname or item.name.split(".")[0]] = item.name if item.asname else item.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {item.asname or item.name: f"{node.module}.{item.name}" for item in node.names}
    return {local: name for local, name in found.items() if name.split(".")[0] in MODULES}


def read(objects):
    """Everything that the nodes want. ``objects``: variable that holds an object of the host -> files that have it."""
    wanted = Wanted()
    for path in sorted(NODES.rglob("*.py")):
        part = "host" if path.parent.name == "host" else path.stem
        here = {name for name, files in objects.items() if part in files}
        tree = ast.parse(path.read_text(encoding="utf-8"))
        _read_file(tree, here, wanted)
        if part == "host":
            functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
            wanted.untyped |= {name for function in functions for name in used_untyped(function)}
    return wanted


def _read_file(tree, objects, wanted):
    known = aliases(tree)

    def full(node):
        name = (chain(node) or "").removeprefix("self._")
        root, _, rest = name.partition(".")
        return f"{known[root]}.{rest}".rstrip(".") if root in known else name

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = full(node)
            if name.split(".")[0] in MODULES:
                wanted.names.add(name)
            elif name.split(".")[0] in objects and "." in name:
                wanted.attributes.add(name)
        elif isinstance(node, ast.Call):
            called = full(node.func)
            plain = not any(isinstance(arg, ast.Starred) for arg in node.args)
            if plain and called.split(".")[0] in (*MODULES, *objects):
                keywords = tuple(sorted(k.arg for k in node.keywords if k.arg))
                wanted.calls.add((called, len(node.args), keywords))
        elif isinstance(node, ast.ClassDef):
            wanted.overrides |= {
                (full(base), member)
                for base in node.bases
                if full(base).startswith(MODULES)
                for member in members(node)
            }


def members(cls):
    """Names that the body of a class binds."""
    for node in cls.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            parts = target.elts if isinstance(target, ast.Tuple) else [target]
            yield from (part.id for part in parts if isinstance(part, ast.Name))


def used_untyped(function):
    """Parameters of type Any of which some attribute is used."""
    loose = {arg.arg for arg in function.args.args if chain(arg.annotation) == "Any"}
    used = {
        node.value.id for node in ast.walk(function) if isinstance(node, ast.Attribute) and chain(node.value) in loose
    }
    return used & loose
