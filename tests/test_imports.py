"""The structure of the package: imports point in one direction, and loading a module needs only core dependencies."""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mdqe"
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES} - {PACKAGE})

# A room is a folder or a file in the package's root. It imports only from rooms before it. The order is the direction
# of the data: operator, network, results, losses and video, inference, the model, and then what works with a model.
ROOMS = (
    "errors", "files", "config", "boxes", "targets", "distributed", "ops",
    "modeling", "results", "annotations", "checkpoint", "weights", "losses", "video", "data", "inference", "model",
    "evaluation", "export", "training", "pages", "importing", "writing", "cli", "__main__",
)  # fmt: skip
ROOT_NAMES = {"__version__", "lazy_names"}  # names of `mdqe` itself that its modules may import
EXTRAS = {"video": {"av", "PIL"}, "cli": {"av", "PIL"}, "data": {"av", "PIL"}}  # what a room's extra installs
MAX_ROOMS = 28
MAX_ROOT_FILES = 10


def module_name(path: Path) -> str:
    return ".".join(("mdqe", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def imports(node: ast.AST, lazy: bool = True, types: bool = True) -> Iterator[str]:
    """Full names of imports. `lazy=False` skips those in functions, `types=False` those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test) and not types:
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"relative import from {child.module}"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imports(child, lazy, types)


def imports_of(name: str, **options: bool) -> Iterator[str]:
    return imports(ast.parse(MODULES[name].read_text()), **options)


def room(name: str) -> str | None:
    """The room of a module or of a name in it; None for the package itself and for other packages."""
    parts = name.split(".")
    return parts[1] if parts[0] == "mdqe" and len(parts) > 1 and parts[1] not in ROOT_NAMES else None


def home(name: str) -> str:
    """The module that an imported name belongs to; for a public name that a package loads lazily, its own module."""
    if name in MODULES:
        return name
    package, _, attribute = name.rpartition(".")
    lazy = getattr(import_module(package), "_HOME", {}) if package in MODULES else {}
    return lazy.get(attribute, package)


def direction_errors(name: str, imported: Iterator[str]) -> list[str]:
    """Imports of module `name` that do not point from a later room to an earlier one."""
    here, errors = room(name), []
    for other in imported:
        there = room(other)
        if there is None or there == here:
            continue
        if here is None or not {here, there} <= set(ROOMS) or ROOMS.index(there) >= ROOMS.index(here):
            errors.append(f"{name} imports {other}")
    return errors


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_in_one_direction(name):
    """Also imports in functions and imports for type checkers."""
    assert direction_errors(name, imports_of(name)) == []


def test_no_import_cycle():
    """No module imports itself through others, imports in functions and imports for type checkers included."""
    graph = {name: {home(other) for other in imports_of(name)} & MODULES.keys() - {name, "mdqe"} for name in MODULES}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("mdqe.modeling.encoder") < order.index("mdqe.model")
    graph["mdqe.config"].add("mdqe.model")
    with pytest.raises(CycleError):
        list(TopologicalSorter(graph).static_order())


def test_number_of_rooms_and_root_files():
    assert {room(name) for name in MODULES} - {None} == set(ROOMS)
    assert len(ROOMS) == len(set(ROOMS)) <= MAX_ROOMS
    assert len([path for path in FILES if path.parent == PACKAGE]) <= MAX_ROOT_FILES


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_public_names(folder):
    """They come from the package's own modules, and are not names of modules: importing one would replace the name."""
    package = import_module(f"mdqe.{folder.name}")
    assert set(getattr(package, "__all__", ())).isdisjoint(path.stem for path in folder.glob("*.py"))
    assert {room(module) for module in getattr(package, "_HOME", {}).values()} <= {folder.name}


def core_dependencies() -> set[str]:
    project = (PACKAGE.parent / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    return {name.replace("-", "_") for name in re.findall(r'"([\w-]+)', listed[1])}


def test_modules_load_with_core_dependencies():
    """Functions may import any package. The rooms of an extra may also import the packages of the extra."""
    core = core_dependencies() | {"tqdm"}  # huggingface_hub depends on tqdm
    assert {"torch", "timm", "huggingface_hub"} <= core
    for name in MODULES:
        for other in imports_of(name, lazy=False, types=False):
            top = other.split(".")[0]
            if top not in sys.stdlib_module_names and top not in ("mdqe", "__future__"):
                assert top in core | EXTRAS.get(room(name) or "", set()), f"{name} imports {other}"


def test_test_files_have_names_of_their_own():
    """pytest imports them as modules without a package and cannot collect two of one name."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_declared_dependencies_are_imported():
    used = {other.split(".")[0] for name in MODULES for other in imports_of(name)}
    assert core_dependencies() <= used


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from mdqe.model import MDQE", ["mdqe.model.MDQE"]),
        ("import mdqe.model", ["mdqe.model"]),
        ("from mdqe import MDQE", ["mdqe.MDQE"]),
        ("def f():\n    from mdqe.cli import main", ["mdqe.cli.main"]),
        ("if TYPE_CHECKING:\n    from mdqe.model import MDQE", ["mdqe.model.MDQE"]),
        ("from mdqe.config import MDQEConfig", []),
        ("from mdqe.weights.folder import fill", []),
        ("from mdqe import __version__", []),
        ("import torch", []),
    ],
)
def test_the_direction_test_detects_imports(source, expected):
    """For imports in a module of the room `weights`."""
    errors = direction_errors("mdqe.weights.hub", imports(ast.parse(source)))
    assert errors == [f"mdqe.weights.hub imports {name}" for name in expected]
