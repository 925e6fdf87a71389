"""`mdqe train`: a run, a resumed run, several processes, and wrong options."""

import csv
import json
import subprocess
import sys

import pytest
import torch

from mdqe import MDQE
from mdqe.data.synthetic import CATEGORIES
from mdqe.errors import InputError
from mdqe.training import trainer as trainer_module

CONFIG = {
    "model_type": "mdqe", "format_version": 1, "backbone": "mobilenetv3_small_050", "hidden_dim": 32, "num_heads": 4,
    "num_points": 2, "encoder_layers": 1, "decoder_layers": 1, "grid_size": 4, "embed_dim": 8, "clip_length": 2,
    "test_clip_length": 2, "window_length": 4, "test_shorter_edge": None,
}  # fmt: skip


@pytest.fixture
def options(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return [
        "--config", tmp_path / "config.json", "--data", "synthetic:easy", "--size", "96x64", "--steps", 4,
        "--batch", 2, "--lr", 1e-3, "--log-every", 2, "--save-every", 2, "--device", "cpu",
    ]  # fmt: skip


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_train_and_resume(run, options, tmp_path):
    folder = tmp_path / "run"
    status, out, err = run("train", "-o", folder, *options, "--set", "dropout=0", "--set", "mask_loss=plain")
    assert (status, out) == (0, f"{folder}\n")
    assert "weights: random" in err and "step 4/4  loss" in err
    model = MDQE.from_pretrained(folder)
    assert model.config.categories == CATEGORIES
    assert "trained by mdqe train on synthetic:easy" in (folder / "README.md").read_text()
    assert model.config.dropout == 0 and model.config.mask_loss == "plain" and model.config.num_classes == 6
    assert [row["step"] for row in rows(folder / "metrics.csv")] == ["2", "4"]

    (tmp_path / "config.json").unlink()  # the run has a copy of the configuration
    status, _, err = run("train", "-o", folder, "--resume", "--steps", 6)
    assert status == 0 and "resumed after step 4" in err and "weights" not in err
    assert [row["step"] for row in rows(folder / "metrics.csv")] == ["2", "4", "6"]
    assert json.loads((folder / "run.json").read_text())["steps"] == 6
    assert MDQE.from_pretrained(folder).config.mask_loss == "plain"


def test_frozen_parts_keep_their_weights(run, options, tmp_path):
    options[options.index("--steps") + 1] = 1
    states = {}
    for name, changes in {"start": ("--lr", 0), "frozen": ("--freeze", "backbone,encoder")}.items():
        assert run("train", "-o", tmp_path / name, *options, "--seed", 5, *changes)[0] == 0
        states[name] = MDQE.from_pretrained(tmp_path / name).state_dict()
    changed = {key for key, value in states["frozen"].items() if not torch.equal(value, states["start"][key])}
    assert {key.partition(".")[0] for key in changed} >= {"query_init", "decoder", "mask_head", "class_head"}
    assert not any(key.startswith(("backbone.", "encoder.")) for key in changed)
    status, _, err = run("train", "-o", tmp_path / "frozen", "--resume", "--steps", 2, "--freeze", "encoder")
    assert status == 2 and "checkpoint.pt" in err and "Traceback" not in err and err.count("error") == 1


def test_resume_before_the_first_checkpoint(run, options, tmp_path):
    status, _, err = run("train", "-o", tmp_path / "run", "--resume", *options)
    assert status == 0 and "has no checkpoint: starting a new run" in err


def test_train_from_a_folder(run, options, tmp_path):
    options[options.index("--steps") + 1] = 1
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("train", "-o", first, *options, "--set", "clip_length=1", "--set", "num_classes=6")[0] == 0
    rest = options[2:]  # the configuration comes from the model
    status, _, err = run("train", "-o", second, *rest, "--init", first, "--set", "clip_length=3")
    assert status == 0 and f"weights: {first} (TCA repeated for 3 frames)" in err
    status, _, err = run("train", "-o", tmp_path / "x", *rest, "--init", first, "--set", "num_classes=9")
    assert status == 2 and "has 6 categories, not 9: " in err and "--reset-classes" in err
    status, _, err = run(
        "train", "-o", tmp_path / "y", *rest, "--init", first, "--set", "num_classes=9", "--reset-classes"
    )
    assert status == 0 and "class heads random" in err


def test_the_recipe_is_the_presets(run, options, tmp_path, monkeypatch):
    seen = {}

    class Recorder:
        def __init__(self, model, clips, folder, optimizer, schedule, **settings):
            seen.update(settings, schedule=schedule, optimizer=optimizer, config=model.config)
            raise InputError("stop here")

    def recorded(*arguments):
        monkeypatch.setattr(trainer_module, "Trainer", Recorder)
        _, _, err = run("train", "-o", tmp_path / "run", "--data", "synthetic", "--device", "cpu", *arguments)
        assert err.endswith("stop here\n")

    recorded("--preset", "r50_ovis_720", "--set", "backbone=mobilenetv3_small_050")
    assert (seen["steps"], seen["batch"], seen["clip_norm"]) == (12_000, 8, 0.01)
    assert seen["schedule"].decay_steps == (10_000,)
    assert [group["lr"] for group in seen["optimizer"].param_groups] == [5e-5, pytest.approx(5e-6)]
    assert seen["config"].clip_length == 4 and seen["config"].num_classes == 6

    recorded(
        "--config", options[1], "--steps", 100, "--decay", "0.6,0.8", "--clip-norm", 0, "--lr", 4e-4, "--warmup", 7,
        "--backbone-multiplier", 1, "--weight-decay", 0.05, "--batch", 4, "--accumulate", 2, "--ema", 0.99,
    )  # fmt: skip
    assert (seen["schedule"].decay_steps, seen["schedule"].warmup_steps, seen["clip_norm"]) == ((60, 80), 7, None)
    assert [(g["lr"], g["weight_decay"]) for g in seen["optimizer"].param_groups] == [(4e-4, 0.05)] * 2
    assert (seen["batch"], seen["accumulate"], seen["average_decay"]) == (4, 2, 0.99)


def test_two_processes_train_one_model(run, options, tmp_path):
    """Two processes of torchrun have the losses of one process, up to the order of sums in float32."""
    folder = tmp_path / "two"
    common = [str(option) for option in [*options, "--set", "dropout=0", "--workers", 0]]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(
        [*command, "mdqe", "train", "-o", str(folder), *common], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder}\n"  # only the first process prints
    assert done.stderr.count("weights: random") == 1 and done.stderr.count("step 4/4") == 1
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert len(state["random"]) == 2 and state["step"] == 4
    assert not torch.equal(state["random"][0]["torch"], state["random"][1]["torch"])

    assert run("train", "-o", tmp_path / "one", *common)[0] == 0
    one, two = (rows(tmp_path / name / "metrics.csv")[0] for name in ("one", "two"))
    assert float(two["init_sem"]) == pytest.approx(float(one["init_sem"]), rel=1e-3)
    assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=1e-2)  # init_reid uses other random subsets


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--preset", "r50_coco"], "--preset and --config exclude each other"),
        (["--data", "synthetic:odd"], "synthetic:odd: expected synthetic:easy, synthetic:standard, synthetic:hard"),
        (["--data", "synthetic:-1"], "the ratio is -1, expected a positive number"),
        (["--set", "grid_size=0"], "grid_size is 0"),
        (["--set", "speed=3"], "unknown configuration fields speed"),
        (["--batch", "3", "--accumulate", "2"], "batch is 3, expected a multiple"),
        (["--init", "./nowhere"], "no such folder: ./nowhere"),
        (["--device", "tpu"], "device is 'tpu'"),
        (["--validate", "street"], "no such file: street; expected FILE, FILE@IMAGES or a folder"),
        (["--data", "street.json:0.5"], "no such file: street.json"),
        (["--lr", "-1"], "'-1' is not a number of at least 0"),
    ],
)
def test_bad_options(run, options, tmp_path, changes, message):
    status, out, err = run("train", "-o", tmp_path / "run", *options, *changes)
    assert status == 2 and out == "" and message in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--set", "grid_size", "'grid_size' is not FIELD=VALUE"), ("--size", "96", "'96' is not a width and a height"),
     ("--edges", "0", """'0' is not a whole number from 1 to 100000 or "native\""""),
     ("--decay", "0.8,0.6", "'0.8,0.6' is not an increasing list"), ("--decay", "2", "'2' is not a number from 0 to 1"),
     ("--loss-weight", "bax=1", "'bax' is not one of class, box,"), ("--loss-weight", "box", "'' is not a number of"),
     ("--freeze", "decoder", "'decoder' is not one of backbone, encoder"),
     ("--checkpointing", "neck", "'neck' is not one of all, backbone, encoder, decoder")],
)  # fmt: skip
def test_malformed_options(run, options, tmp_path, option, value, message):
    status, _, err = run("train", "-o", tmp_path / "run", *options, option, value)
    assert status == 2 and message in err and err.count("\n") == 1


def test_missing_options(run, options, tmp_path):
    assert "--data is missing; expected a training set" in run("train", "-o", tmp_path / "run", *options[:2])[2]
    err = run("train", "-o", tmp_path / "run", *options[2:])[2]
    assert "no model is named; expected --preset NAME, --config JSON or --init ID|FOLDER" in err


def test_a_folder_in_use(run, options, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "kept").touch()
    status, _, err = run("train", "-o", folder, *options)
    assert status == 2 and "is in use; choose a new folder, or continue the run with --resume" in err
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_damaged_settings(run, tmp_path):
    (tmp_path / "run.json").write_text("{")
    status, _, err = run("train", "-o", tmp_path, "--resume")
    assert status == 2 and "run.json is not JSON" in err


def test_a_loss_that_is_not_finite(run, options, tmp_path, monkeypatch):
    from mdqe import MDQE

    losses = MDQE.loss
    monkeypatch.setattr(MDQE, "loss", lambda *a, **k: {n: loss * float("nan") for n, loss in losses(*a, **k).items()})
    status, out, err = run("train", "-o", tmp_path / "run", *options)
    assert status == 1 and out == "" and "Traceback" not in err
    assert "mdqe train: error: step 0: init_sem is nan" in err and "bad_batch.pt" in err
    assert (tmp_path / "run" / "bad_batch.pt").exists()


def test_out_of_memory(run, options, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(trainer_module.Trainer, "_step", fail)
    status, out, err = run("train", "-o", tmp_path / "run", *options)
    assert status == 2 and out == "" and "error: out of memory; --checkpointing all" in err and "Traceback" not in err


def test_resuming_needs_a_run(run, tmp_path):
    status, out, err = run("train", "-o", tmp_path / "none", "--resume")
    assert (status, out) == (2, "") and f"no run in {tmp_path / 'none'}: run.json is missing" in err
    assert not (tmp_path / "none").exists()
