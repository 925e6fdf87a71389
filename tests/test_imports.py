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
# Their `__init__` loads public names on first use; it imports no module of its own when it is loaded.
PACKAGES = {".".join(("mdqe", *path.parent.relative_to(PACKAGE).parts)) for path in PACKAGE.rglob("__init__.py")}

# A room (a file of the package's root or a folder) imports only from those before it. The order is the direction of
# the data: operator, network, results, losses and video, inference, the model, then what works with a model.
ROOMS = (
    "errors", "atomic", "config", "boxes", "targets", "distributed", "ops",
    "modeling", "results", "annotations", "checkpoint", "weights", "losses", "video", "data", "inference", "model",
    "evaluation", "export", "training", "pages", "importing", "cli", "__main__",
)  # fmt: skip


def module_name(path: Path) -> str:
    return ".".join(("mdqe", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imports(node: ast.AST, path: Path, lazy: bool = True, types: bool = True) -> Iterator[str]:
    """Full names of imports; without `lazy` those inside functions are left out, without `types` type-only ones."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test) and not types:
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{path}: relative import"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imports(child, path, lazy, types)


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


def test_no_circle():
    """No two modules import each other, directly or through others, type-only imports and those in functions counted."""
    modules = {module_name(path) for path in FILES}
    graph = {}
    for path in FILES:
        name = module_name(path)
        found = {n if n in modules else n.rpartition(".")[0] for n in imports(ast.parse(path.read_text()), path)}
        graph[name] = {n for n in found & modules if n != name and n not in PACKAGES}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("mdqe.modeling.encoder") < order.index("mdqe.model")


def test_the_house_stays_small():
    assert len([path for path in FILES if path.parent == PACKAGE]) <= 10
    assert len(ROOMS) <= 28


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
        for name in imports(ast.parse(path.read_text()), path, lazy=False, types=False):
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top not in ("mdqe", "__future__"):
                assert top in core | extras.get(room(module_name(path)), set()), f"{module_name(path)} imports {name}"
