"""Errors of commands: one line and status 2 for what a user can fix, a traceback and status 1 for a bug."""

import os
import subprocess
import sys

import pytest
import torch

import mdqe
from mdqe.cli import COMMANDS, info, one_line
from mdqe.errors import DependencyError, InputError

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:125] err == 0. DefaultCPUAllocator: can't allocate memory: 9 bytes"
NO_MEMORY = [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), RuntimeError(ALLOCATOR)]


@pytest.fixture
def fail(run, monkeypatch):
    """fail(error) -> exit status and stderr of a command that raises the error."""

    def call(error: BaseException, *options: str) -> tuple[int, str]:
        def raising():
            raise error

        monkeypatch.setattr(info, "_installation", raising)
        status, out, err = run("info", *options)
        assert out == ""
        return status, err

    return call


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("size is 0;\n  expected at least 1"), "size is 0; expected at least 1"),
        (DependencyError("reading needs PyAV: pip install av"), "reading needs PyAV: pip install av"),
        (FileNotFoundError("no such file: x.mp4"), "no such file: x.mp4"),
        (OSError(28, "No space left on device", "/out/x.json"), "/out/x.json: No space left on device"),
        (ConnectionError(), "ConnectionError"),
    ],
)
def test_what_a_user_can_fix_is_one_line(fail, error, line):
    assert fail(error) == (2, f"mdqe info: error: {line}\n")


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_is_one_line(fail, error):
    assert fail(error) == (2, "mdqe info: error: out of memory; a smaller --size needs less\n")


@pytest.mark.parametrize(
    "error",
    [ValueError("bad"), RuntimeError("not enough memory slots"), KeyError("x"), ImportError("y"), AssertionError()],
    ids=lambda error: type(error).__name__,
)
def test_a_bug_keeps_its_traceback_and_asks_for_a_report(fail, error):
    status, err = fail(error)
    first, *_, message, last = err.splitlines()
    assert status == 1
    assert first == "Traceback (most recent call last):"
    assert message.startswith(type(error).__name__)
    assert last == f"mdqe info: this is a bug in mdqe {mdqe.__version__}; please report it with the lines above"


def test_an_interruption_is_one_line(fail):
    assert fail(KeyboardInterrupt()) == (1, "mdqe info: interrupted\n")


def test_errors_keep_their_built_in_base_classes():
    assert issubclass(InputError, ValueError) and issubclass(DependencyError, ImportError)
    assert one_line(KeyError("x")) == "'x'"


def test_a_reader_that_ends_early_is_no_error():
    command = f"{sys.executable} -m mdqe info | true"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


# Every command.


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0 and f"\nexample:\n  mdqe {command} " in out


def test_help_is_quick():
    """It loads no heavy library. A process for all commands: the modules of all are imported for each."""
    program = [sys.executable, "-X", "importtime", "-m", "mdqe", "segment", "--help"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert not {line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()} & {"torch", "av", "PIL", "timm"}


@pytest.mark.parametrize("arguments", [("segmnet",), (), ("segment",), ("info", "--dtype", "int8")])
def test_a_wrong_command_line_is_one_line(run, arguments):
    status, out, err = run(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("mdqe") and ": error: " in err


def test_the_command_as_a_module(tmp_path):
    command = [sys.executable, "-m", "mdqe"]
    shown = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
    assert (shown.returncode, shown.stdout) == (0, f"mdqe {mdqe.__version__}\n")
    segment = [*command, "segment", "absent.mp4", "-o", os.fspath(tmp_path)]
    failed = subprocess.run(segment, capture_output=True, text=True, timeout=60)
    assert (failed.returncode, failed.stderr) == (2, "mdqe segment: error: no such file: absent.mp4\n")


EMPTY = (
    "segment a.mp4", "demo", "train --data synthetic", "evaluate a.json --data b.json", "view a.json",
    "submit a.json --data b.json", "split a.json", "make-data", "import masks",
    "write a.json --format coco", "convert a.pth", "export",
)  # fmt: skip


@pytest.mark.parametrize("command", EMPTY)
def test_an_empty_output_is_no_path(run, command):
    status, out, err = run(*command.split(), "-o", "")
    assert (status, out) == (2, "") and "'' is not a path" in err and len(err.splitlines()) == 1


@pytest.mark.skipif(os.name != "posix", reason="needs limits of POSIX")
def test_results_that_cannot_be_printed_are_one_line(tmp_path):
    """stdout is a file that cannot grow. The interpreter does not try again at its end."""
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

    command = [sys.executable, "-m", "mdqe", "info"]
    options = {"env": {**os.environ, "PYTHONUNBUFFERED": ""}, "preexec_fn": limit, "text": True, "timeout": 60}
    with (tmp_path / "out.txt").open("wb") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, **options)
    assert (done.returncode, done.stderr) == (2, "mdqe info: error: standard output: File too large\n")
