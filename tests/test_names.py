"""Names of files and folders with bytes that are not UTF-8, as Linux allows them."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from small_models import small_model

from mdqe import MDQE
from mdqe.weights.convert import convert_file

NAME = b"d\xe9j\xe0"
ESCAPED = r"d\udce9j\udce0"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")


def test_models_are_saved(tmp_path):
    folder = tmp_path / os.fsdecode(NAME)
    model = small_model()
    model.save_pretrained(folder, source=f"trained by mdqe train on {os.fsdecode(NAME)}")
    plain = folder.rename(tmp_path / "plain")  # safetensors reads no file in a folder of such a name
    with safe_open(plain / "model.safetensors", "pt") as file:
        assert file.metadata()["source"] == f"trained by mdqe train on {ESCAPED}"
    card = (plain / "README.md").read_text(encoding="utf-8")
    assert f"trained by mdqe train on {ESCAPED}" in card and f"--model {tmp_path}/{ESCAPED}" in card
    assert MDQE.from_pretrained(plain, dtype="auto").config == model.config


def test_training_and_conversion(tmp_path):
    """The run reads initial weights from a file of such a name, and its checkpoint is converted under one."""
    initial, folder = tmp_path / f"{os.fsdecode(NAME)}.pth", tmp_path / os.fsdecode(NAME)
    model = small_model().float()
    torch.save(model.state_dict(), initial)
    model.save_pretrained(tmp_path / "model")
    command = ("train", "--config", tmp_path / "model" / "config.json", "--init", initial, "--data", "synthetic:easy")
    options = ("--size", "96x64", "--steps", "1", "--batch", "1", "--device", "cpu", "--reset-classes", "-o", folder)
    assert _run(*command, *options) == os.fsencode(folder) + b"\n"
    assert f"weights: {tmp_path}/{ESCAPED}.pth" in (folder / "initial_weights.txt").read_text(encoding="utf-8")
    (folder / "checkpoint.pt").rename(initial)
    convert_file(initial, tmp_path / "converted")
    assert f"{ESCAPED}.pth, sha256" in (tmp_path / "converted" / "README.md").read_text(encoding="utf-8")


def _run(*arguments: object) -> bytes:
    """The output of a command in a locale such as en_US.UTF-8, in which Python's own output is strict."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mdqe", *map(str, arguments)]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
