"""The options in the run.json of a training run are checked as those of the command line."""

import argparse
import json
from collections import Counter

import pytest
from mutations import mutations
from test_train import CONFIG

from mdqe import MDQEConfig
from mdqe.cli import train
from mdqe.cli.run_settings import read_settings, write_settings
from mdqe.errors import InputError
from mdqe.training import trainer as trainer_module

FIELDS = {name: value for name, value in CONFIG.items() if name not in ("model_type", "format_version")}
GIVEN = [
    "--data", "synthetic:easy", "--data", "synthetic:2", "--set", "dropout=0", "--set", "mask_loss=plain",
    "--edges", "32,48", "--size", "96x64", "--steps", "4", "--batch", "2", "--lr", "0.001", "--loss-weight", "box=2.5",
    "--loss-weight", "mask=0", "--decay", "0.5,1", "--warmup", "1", "--ema", "0.9", "--seed", "3", "--device", "cpu",
    "--amp", "bf16", "--checkpointing", "encoder,decoder", "--workers", "2", "--skip-bad", "--validate", "synthetic",
    "--init", "imagenet", "--freeze", "backbone",
]  # fmt: skip


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return parser


@pytest.fixture
def stored(parser, tmp_path):
    """A valid run.json as a document."""
    args = train.resolve_options(parser.parse_args(["-o", str(tmp_path / "new"), *GIVEN]))
    options = {name: value for name, value in vars(args).items() if name not in train.UNSAVED}
    write_settings(tmp_path / "run.json", options, MDQEConfig.from_dict(FIELDS).to_dict())
    return json.loads((tmp_path / "run.json").read_text())


def resumed(parser, folder):
    return vars(train.resolve_options(parser.parse_args(["-o", str(folder), "--resume"])))


def test_stored_options_are_those_that_were_given(parser, stored, tmp_path):
    expected = vars(train.resolve_options(parser.parse_args(["-o", str(tmp_path / "new"), *GIVEN])))
    found = resumed(parser, tmp_path)
    different = {name for name in expected if found[name] != expected[name]}
    assert different == {"output", "resume", "fields"}
    assert found["set"] == [("dropout", 0), ("mask_loss", "plain")] and found["size"] == (64, 96)


def test_defaults_are_stored_too(parser, tmp_path):
    given = parser.parse_args(["-o", str(tmp_path / "new"), "--data", "synthetic", "--preset", "r50_ovis_360"])
    args = vars(train.resolve_options(given))
    write_settings(tmp_path / "run.json", {n: v for n, v in args.items() if n not in train.UNSAVED}, FIELDS)
    found = resumed(parser, tmp_path)
    assert {name for name in args if found[name] != args[name]} <= {"output", "resume", "fields", "set", "loss_weight"}
    assert not found["set"] and not found["loss_weight"] and found["checkpointing"] == ()
    assert found["freeze"] == ()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("workers", 2**70, "'1180591620717411303424' is not a whole number from 0 to 1024"),
        ("workers", -1, "'-1' is not a whole number"),
        ("workers", True, "'True' is not a whole number"),
        ("workers", "2", "expected a value of --workers"),
        ("steps", 4.0, "'4.0' is not a whole number"),
        ("steps", [], "'[]' is not a whole number"),
        ("lr", float("nan"), "'nan' is not a number"),
        ("lr", 10**400, "is not a number"),
        ("size", [0.5, 3], "'3x0.5' is not a width and a height"),
        ("size", "96x64", "expected a value of --size"),
        ("edges", [0], "'0' is not a whole number"),
        ("decay", [0.8, 0.6], "is not an increasing list"),
        ("amp", "int8", "'int8' is not one of bf16, fp16"),
        ("checkpointing", ["neck"], "'neck' is not one of"),
        ("data", "synthetic", "expected a value of --data: a list"),
        ("data", [{"a": 1}], "expected a value of --data"),
        ("data", ["a\0b"], "a text with a null character"),
        ("data", ["\ud800"], "expected a value of --data"),
        ("set", [["dropout"]], "expected a value of --set"),
        ("set", [["speed", 3]], "unknown configuration fields speed"),
        ("loss_weight", [["bax", 1]], "'bax' is not one of"),
        ("skip_bad", 1, "expected a value of --skip-bad: true or false"),
        ("preset", "r50", "unknown preset 'r50'"),
        ("fields", [], "expected an object of configuration fields"),
        ("fields", {"grid_size": 0}, "grid_size is 0"),
        ("speed", 3, "has an unknown option 'speed'"),
    ],
)
def test_a_forged_option_is_one_error(parser, stored, tmp_path, name, value, message):
    (tmp_path / "run.json").write_text(json.dumps({**stored, name: value}))
    with pytest.raises(InputError) as caught:
        resumed(parser, tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "run.json")) and message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500 + len(str(tmp_path))


def test_mutated_settings_are_read_or_one_error(parser, stored, tmp_path):
    path, counts = tmp_path / "run.json", Counter()
    for data in mutations(stored, 300, seed=1):
        path.write_bytes(data)
        try:
            options = read_settings(path, parser)
        except InputError as error:
            counts["rejected"] += 1
            assert str(error).startswith(str(path)) and "\n" not in str(error), str(error)
        else:
            counts["read"] += 1
            assert type(options.get("workers", 0)) is int and 0 <= options.get("workers", 0) <= 1024
    assert counts["rejected"] > 150 and counts["read"] > 10, counts


def test_mutated_settings_end_in_one_line(run, stored, tmp_path, monkeypatch):
    """The whole command up to the first step."""

    def stop(self):
        raise InputError(f"{self.folder}: stop here")

    monkeypatch.setattr(trainer_module.Trainer, "train", stop)
    stored = {**stored, "data": ["synthetic:easy"], "amp": None, "init": None, "workers": 0, "checkpointing": []}
    for data in mutations(stored, 100, seed=2):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_bytes(data)
        status, out, err = run("train", "-o", folder, "--resume")
        last = err.splitlines()[-1]
        assert (status, out) == (2, "") and last.startswith("mdqe train: error: ") and "Traceback" not in err, err
        assert not any("error" in line for line in err.splitlines()[:-1]), err


def test_failed_options_do_not_replace_the_stored_ones(run, stored, tmp_path):
    options = ["--data", "synthetic:easy", "--size", "96x64", "--steps", 1, "--batch", 1, "--device", "cpu"]
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    folder = tmp_path / "run"
    assert run("train", "-o", folder, "--config", tmp_path / "config.json", *options)[0] == 0
    before = (folder / "run.json").read_bytes()
    status, _, err = run("train", "-o", folder, "--resume", "--batch", 2)
    assert status == 2 and "a run with 1 clips per step, expected batch=2" in err
    assert (folder / "run.json").read_bytes() == before
