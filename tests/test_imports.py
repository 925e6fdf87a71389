"""Which part of the package knows which: imports point one way, and only to what is installed."""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mdqe"
FILES = sorted(PACKAGE.rglob("*.py"))

# A room imports only from those before it: learned modules know nothing of videos, losses or state; what infers knows
# nothing of files; the model puts them together.
ROOMS = (
    "atomic", "config", "ops", "dropout", "mlp", "boxes", "targets", "frames",
    "compiled", "backbone", "encoder", "query_init", "decoder", "mask_head", "outputs",
    "checkpoint", "storage", "source", "hub",
    "inference", "video", "image_processor", "losses", "model",
    "export", "data", "evaluation", "importing", "pages", "training", "cli", "train", "__main__",
)  # fmt: skip


def module_name(path: Path) -> str:
    return ".".join(("mdqe", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imports(node: ast.AST, path: Path, lazy: bool = True) -> Iterator[str]:
    """Full names of what is imported when the code runs; without `lazy`, when the module is loaded."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{path}: relative import"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imports(child, path, lazy)


def room(name: str) -> str | None:
    """The room of a module or name of this package; None for the package itself and for others."""
    parts = name.split(".")
    return parts[1] if parts[0] == "mdqe" and len(parts) > 1 and parts[1] != "__version__" else None


@pytest.mark.parametrize("path", FILES, ids=[module_name(path) for path in FILES])
def test_imports_point_one_way(path):
    here = room(module_name(path))
    for name in imports(ast.parse(path.read_text()), path):
        there = room(name)
        if there is None or there == here:
            continue
        assert here is not None, "the package itself loads its parts when they are asked for"
        assert {here, there} <= set(ROOMS), f"{here} or {there} has no place in ROOMS yet"
        assert ROOMS.index(there) < ROOMS.index(here), f"{module_name(path)} imports {name}"


def test_modules_load_in_some_order():
    """No two modules need each other to load."""
    modules = {module_name(path) for path in FILES}
    graph = {}
    for path in FILES:
        names = imports(ast.parse(path.read_text()), path, lazy=False)
        graph[module_name(path)] = {n if n in modules else n.rpartition(".")[0] for n in names} & modules
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("mdqe.encoder") < order.index("mdqe.model")


@pytest.mark.parametrize("package", sorted({path.parent for path in FILES} - {PACKAGE}), ids=lambda path: path.name)
def test_no_public_name_is_also_a_module(package):
    """Importing the module would put it in the name's place."""
    public = getattr(import_module(f"mdqe.{package.name}"), "__all__", ())
    assert {path.stem for path in package.glob("*.py")}.isdisjoint(public)


def test_only_what_is_installed():
    """Loading a module needs the core dependencies alone, but in the rooms of an extra; functions may use any."""
    listed = re.search(
        r"^dependencies = \[(.*?)^\]", (PACKAGE.parent / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE
    )
    core = {name.replace("-", "_") for name in re.findall(r'"([\w-]+)', listed[1])}
    assert {"torch", "timm", "huggingface_hub"} <= core
    core.add("tqdm")  # comes with huggingface_hub
    extras = {"video": {"av", "PIL"}, "cli": {"av", "PIL"}, "data": {"av", "PIL"}}
    for path in FILES:
        for name in imports(ast.parse(path.read_text()), path, lazy=False):
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top not in ("mdqe", "__future__"):
                assert top in core | extras.get(room(module_name(path)), set()), f"{module_name(path)} imports {name}"
