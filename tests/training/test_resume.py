"""A killed run continues with the same results, and no failure destroys the last checkpoint."""

import csv
import os
import random
import signal
import subprocess
import sys
from itertools import compress
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

import mdqe
from mdqe import MDQE
from mdqe.errors import InputError
from mdqe.training import run_state
from mdqe.training.reports import CsvTable
from mdqe.training.run_state import load_state, random_state, save_state, set_random_state

PROGRAM = Path(tiny.__file__)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_program(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run tiny.py with the package of this process: its results are compared to the last bit."""
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(mdqe.__file__).parents[1])}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_a_killed_run_ends_with_the_same_bits(tmp_path, one_thread):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    tiny.trainer(whole, average_decay=0.9).train()

    done = run_program(killed, 5)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (killed / "model.safetensors").exists()
    resumed = tiny.trainer(killed, average_decay=0.9)
    assert resumed.resume() and resumed.done == 4  # the fifth step was lost
    resumed.train()

    first, second = load_state(whole / "checkpoint.pt"), load_state(killed / "checkpoint.pt")
    assert first["step"] == second["step"] == 6
    assert_same(first, second)
    one, other = load_file(whole / "model.safetensors"), load_file(killed / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()
    assert [row[:3] for row in rows(whole / "metrics.csv")] == [row[:3] for row in rows(killed / "metrics.csv")]


def assert_same(a, b, name="state"):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), name
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            assert_same(a[key], b[key], f"{name}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), name
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{name}.{i}")
    else:
        assert a == b, name


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("stop", [1, 4, 5])
def test_a_row_of_metrics_has_all_steps_since_the_last_row(tmp_path, one_thread, stop):
    """The run stops between two rows, and its last checkpoint is older than the steps of the next row."""
    options = {"log_every": 3, "save_every": 1, "steps": 7}
    tiny.trainer(tmp_path / "whole", **options).train()
    stopped = tiny.trainer(tmp_path / "stopped", **options)
    tiny.fail_at(stopped, stop)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed = tiny.trainer(tmp_path / "stopped", **options)
    assert resumed.resume() and resumed.done == stop
    resumed.train()
    first, second = (rows(tmp_path / name / "metrics.csv") for name in ("whole", "stopped"))
    assert [row[0] for row in first] == ["step", "3", "6", "7"]
    measured = [name not in ("seconds", "waiting") for name in first[0]]
    assert [list(compress(row, measured)) for row in first] == [list(compress(row, measured)) for row in second]


def test_a_checkpoint_without_the_sums_of_metrics(tmp_path):
    tiny.trainer(tmp_path, steps=1).train()
    state = load_state(tmp_path / "checkpoint.pt")
    del state["interval"]
    save_state(tmp_path / "checkpoint.pt", state)
    resumed = tiny.trainer(tmp_path, steps=2)
    assert resumed.resume()
    resumed.train()
    assert [row[0] for row in rows(tmp_path / "metrics.csv")] == ["step", "1", "2"]


def test_dropout_makes_the_random_state_matter(tmp_path, one_thread):
    """Otherwise the test above could not detect a lost random state."""
    tiny.trainer(tmp_path / "a", steps=4).train()
    tiny.trainer(tmp_path / "b", steps=2).train()
    resumed = tiny.trainer(tmp_path / "b", steps=4)
    resumed.resume()
    resumed._random = None  # the random state is lost
    resumed.train()
    a, b = (load_state(tmp_path / name / "checkpoint.pt")["model"] for name in "ab")
    assert not all(torch.equal(a[name], b[name]) for name in a)


def test_the_folder_of_a_finished_run(tmp_path):
    run = tiny.trainer(tmp_path)
    run.train()
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoint.pt", "metrics.csv", "config.json", "model.safetensors", "README.md"} <= names
    model = MDQE.from_pretrained(tmp_path)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), run.model.parameters(), strict=True))
    again = tiny.trainer(tmp_path)
    assert again.resume() and again.done == 6
    again.train()  # no steps remain
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 4


def test_a_resumed_run_may_have_more_steps(tmp_path):
    tiny.trainer(tmp_path, steps=2).train()
    longer = tiny.trainer(tmp_path, steps=3)
    assert longer.resume()
    longer.train()
    assert [row[0] for row in rows(tmp_path / "metrics.csv")] == ["step", "2", "3"]


def test_nothing_to_resume(tmp_path):
    assert not tiny.trainer(tmp_path / "new").resume()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"grid_size": 5}}, "another configuration: grid_size differ"),
        ({"batch": 4}, "a run with 2 clips per step, expected batch=4"),
        ({"average_decay": 0.9}, "has no moving average"),
    ],
)
def test_a_checkpoint_of_another_run(tmp_path, changes, message):
    run = tiny.trainer(tmp_path)
    run.save()
    with pytest.raises(ValueError, match=message):
        tiny.trainer(tmp_path, **changes).resume()


def test_a_damaged_checkpoint(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"checkpoint.pt is damaged or not .* \(10 bytes\)"):
        tiny.trainer(tmp_path).resume()


@pytest.mark.skipif(os.name != "posix", reason="needs limits of POSIX")
@pytest.mark.parametrize("room", [0, 100, 100_000])
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, room):
    import resource

    tiny.trainer(tmp_path, steps=2).train()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    longer = tiny.trainer(tmp_path, steps=4)
    assert longer.resume()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            longer.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.filename == str(tmp_path / "checkpoint.pt")
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not (tmp_path / "checkpoint.partial.pt").exists()
    assert longer.resume() and longer.done == 2


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import tiny
from mdqe import files
write, written = files._LateErrors.write, 0
def write_and_die(file, data):
    global written
    written += write(file, data)
    if written > 100_000:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(data)
run = tiny.trainer(Path({folder!r}), steps=4)
assert run.resume()
files._LateErrors.write = write_and_die
run.train()
"""


def test_a_kill_while_saving_keeps_the_last_checkpoint(tmp_path):
    tiny.trainer(tmp_path, steps=2).train()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    program = KILLED_WHILE_SAVING.format(tests=str(PROGRAM.parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "checkpoint.partial.pt").stat().st_size > 100_000  # killed while writing
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    again = tiny.trainer(tmp_path, steps=4)
    assert again.resume() and again.done == 2
    again.train()
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 4
    assert not (tmp_path / "checkpoint.partial.pt").exists()


def test_every_generator_continues(tmp_path):
    def draw():
        arrays = torch.rand(3).tolist(), np.random.rand(3).tolist()
        return *arrays, np.random.randn(), random.random(), random.gauss(0, 1)

    np.random.randn(), random.gauss(0, 1)  # both store the second number of a pair
    save_state(tmp_path / "state.pt", random_state())
    expected = draw()
    set_random_state(load_state(tmp_path / "state.pt"))
    assert draw() == expected


def test_the_file_is_on_the_disk_before_it_replaces_the_old_one(tmp_path, monkeypatch):
    order = []
    synced, replaced = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("fsync"), synced(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda path, to: (order.append("replace"), replaced(path, to))[1])
    run_state.save_state(tmp_path / "state.pt", {"a": torch.ones(2)})
    assert order == ["fsync", "replace", "fsync"]  # the last one is of the folder


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("config", None, "no entry 'config'"),
        ("model", {}, "Missing key"),
        ("scaler", -1, "scaler is '-1', expected a dictionary"),
        ("random", {}, "random is '{}', expected a list"),
        ("random", [{}], "no entry 'torch'"),
        ("step", -1, "step is '-1', expected a whole number"),
        ("step", 2.0, "step is '2.0', expected a whole number"),
        ("optimizer", {"state": {}, "param_groups": []}, "is damaged"),
        ("batch", "2", "clips per step"),
        ("interval", {"steps": -1}, "no entry 'losses'"),
        ("interval", {"steps": -1, "losses": {}, "grad_norm": 0.0, "seconds": 0.0, "waiting": 0.0}, "interval is"),
        (
            "interval",
            {"steps": 1, "losses": {"box": "1"}, "grad_norm": 0.0, "seconds": 0.0, "waiting": 0.0},
            "interval is",
        ),
    ],
)
def test_a_forged_checkpoint_is_one_error(tmp_path, key, value, message):
    tiny.trainer(tmp_path, steps=1).train()
    state = load_state(tmp_path / "checkpoint.pt")
    if value is None:
        del state[key]
    else:
        state[key] = value
    save_state(tmp_path / "checkpoint.pt", state)
    with pytest.raises(InputError) as caught:
        tiny.trainer(tmp_path, steps=2).resume()
    assert str(caught.value).startswith(str(tmp_path / "checkpoint.pt")) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mutated_checkpoints_load_or_are_one_error(tmp_path):
    """Seeded mutations of every level of the file: a value is dropped or replaced."""
    tiny.trainer(tmp_path, steps=1, average_decay=0.9).train()
    path = tmp_path / "checkpoint.pt"
    generator, rejected = random.Random(0), 0
    target = tiny.trainer(tmp_path, steps=2, average_decay=0.9)
    for _ in range(60):
        state = load_state(path)
        home = state
        for _ in range(generator.randrange(4)):
            inner = [one for one in (home.values() if isinstance(home, dict) else home) if isinstance(one, dict | list)]
            home = generator.choice(inner) if inner else home
        keys = list(home) if isinstance(home, dict) else list(range(len(home)))
        if not keys:
            continue
        key = generator.choice(keys)
        new = generator.choice([None, -1, 2**70, "text", [], {}, float("nan"), torch.zeros(3), "drop"])
        if isinstance(new, str) and new == "drop":
            del home[key]
        else:
            home[key] = new
        (tmp_path / "other").mkdir(exist_ok=True)
        save_state(tmp_path / "other" / "checkpoint.pt", state)
        target.folder = tmp_path / "other"
        try:
            target.resume()
        except InputError as error:
            rejected += 1
            assert str(error).startswith(str(target.folder)) and "\n" not in str(error)
    assert rejected > 10, rejected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("step,loss\n1," + "9" * 200_000 + "\n", "is not a CSV table"),
        ("a,b\n1,2\n", "has the first column 'a', expected 'step'"),
        (b"step,\xff\xfe\n", "is not a CSV table"),
        ("\n\n\n", ""),
        ("", ""),
        ("\nstep,loss\n\n1,0.5\n2\n\n", ""),
    ],
)
def test_a_damaged_table_of_metrics(tmp_path, content, message):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if message:
        with pytest.raises(InputError, match=message) as caught:
            CsvTable(path, start=5)
        assert str(caught.value).startswith(str(path))
        return
    CsvTable(path, start=5).append(6, {"loss": 0.25})
    kept = [row for row in rows(path) if row]
    assert kept[0] == ["step", "loss"] and kept[-1] == ["6", "0.25"]
