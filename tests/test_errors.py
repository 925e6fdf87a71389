"""Errors that a user can mend have classes of their own, and bugs are not swallowed."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mdqe.errors import DependencyError, InputError, MDQEError, is_out_of_memory

PACKAGE = Path(__file__).resolve().parents[1] / "mdqe"
# In these rooms an invalid value comes from the user: from a file, an option or a configuration.
USER_ROOMS = (
    "config", "checkpoint", "distributed", "weights", "annotations", "data", "video", "evaluation", "importing",
    "export", "pages", "cli", "training",
)  # fmt: skip
BUG_CLASSES = {"Exception", "ValueError", "ImportError", "ModuleNotFoundError", "RuntimeError"}
BROAD = {"Exception", "BaseException"}
# A container whose writing failed is closed. The first error is raised.
SUPPRESSED = {"mdqe/video/write.py", "mdqe/checkpoint/pickles.py"}  # a damaged pickle raises errors of any type


def files_of(room: str) -> list[Path]:
    return [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").is_file() else sorted((PACKAGE / room).rglob("*.py"))


def name_of(node: ast.expr | None) -> str:
    return ast.unparse(node.func if isinstance(node, ast.Call) else node) if node else ""


def raised_bug_classes(source: str) -> list[str]:
    """The raise statements that the command line would report as bugs."""
    raised = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise))
    return [ast.unparse(node) for node in raised if name_of(node.exc) in BUG_CLASSES]


def swallowed(source: str) -> Iterator[str]:
    """Handlers of all exceptions that neither raise an error nor use the exception, and suppressed ones."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            inner = [inner for statement in node.body for inner in ast.walk(statement)]
            used = any(isinstance(n, ast.Raise) or (isinstance(n, ast.Name) and n.id == node.name) for n in inner)
            if not used and any(one is None or name_of(one) in BROAD for one in types):
                yield f"line {node.lineno}: except {name_of(node.type)}"
        elif isinstance(node, ast.Call) and name_of(node).endswith("suppress") and BROAD & set(map(name_of, node.args)):
            yield f"line {node.lineno}: {ast.unparse(node)}"


# --- the classes ----------------------------------------------------------------------------------------------------


def test_errors_can_be_caught_by_built_in_classes():
    for error, built_in in ((InputError, ValueError), (DependencyError, ImportError)):
        assert issubclass(error, MDQEError) and issubclass(error, built_in)
        assert str(error("hidden_dim is 3")) == "hidden_dim is 3"
    assert not issubclass(MDQEError, ValueError | ImportError | OSError)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried …"), True),
        (RuntimeError("the memory of the tracker is empty"), False),
        (RuntimeError("out of memory"), False),
        (ValueError("DefaultCPUAllocator: can't allocate memory"), False),
        (InputError("memory is 3, expected 1 to 2"), False),
        (KeyError("memory"), False),
    ],
)
def test_out_of_memory_is_recognized_by_type(error, expected):
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize("allocate", [lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda: bytearray(1 << 60)])
def test_failed_allocations_are_out_of_memory(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        allocate()
    assert is_out_of_memory(raised.value)


# --- the package ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", USER_ROOMS)
def test_rooms_of_the_user_raise_the_library_s_errors(room):
    assert files_of(room)
    assert {str(path): found for path in files_of(room) if (found := raised_bug_classes(path.read_text()))} == {}


def test_no_bug_is_swallowed():
    found = {
        path.relative_to(PACKAGE.parent).as_posix(): list(swallowed(path.read_text())) for path in PACKAGE.rglob("*.py")
    }
    assert {path: places for path, places in found.items() if places and path not in SUPPRESSED} == {}
    assert all(len(found[path]) == 1 for path in SUPPRESSED)


@pytest.mark.parametrize(
    ("source", "raised", "places"),
    [
        ("raise ValueError('x') from None", 1, 0),
        ("raise RuntimeError", 1, 0),
        ("raise InputError('x')", 0, 0),
        ("raise FileNotFoundError('x')", 0, 0),
        ("try:\n    f()\nexcept Exception:\n    pass", 0, 1),
        ("try:\n    f()\nexcept:\n    print()", 0, 1),
        ("try:\n    f()\nexcept (OSError, BaseException) as error:\n    print()", 0, 1),
        ("with contextlib.suppress(Exception):\n    f()", 0, 1),
        ("try:\n    f()\nexcept OSError:\n    pass", 0, 0),
        ("try:\n    f()\nexcept Exception as error:\n    report(error)", 0, 0),
        ("try:\n    f()\nexcept BaseException:\n    clean()\n    raise", 0, 0),
        ("with suppress(KeyError):\n    f()", 0, 0),
    ],
)
def test_the_tests_of_the_package_detect_errors(source, raised, places):
    assert len(raised_bug_classes(source)) == raised
    assert len(list(swallowed(source))) == places
