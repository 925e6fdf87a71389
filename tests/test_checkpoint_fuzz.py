"""Damaged checkpoints of the released code: read, or one error that names the file, in limited time."""

import random
import zipfile

import pytest
import torch
from fuzzing import accepts, damaged_bytes
from official_layout import layout, pickled

from mdqe.checkpoint import convert_official, matching_presets, official_sizes, read_official
from mdqe.config import MDQEConfig

COUNT = 100
CONFIG = MDQEConfig.preset("r50_coco")
VALUES = (
    None, 1, 2.5, "text", [], {}, torch.zeros(()), torch.zeros(3), torch.zeros(0, 2**40), torch.zeros(2, 2, 2, 2, 2),
    torch.zeros(4).to_sparse(), torch.zeros(4, dtype=torch.complex64), torch.zeros(4, dtype=torch.bool),
    torch.zeros(2**20, 2**20, device="meta"), torch.zeros(1).expand(2**31),
)  # fmt: skip
NAMES = (
    "",
    "model",
    "a\nb",
    "\x1b[31m",
    "x" * 10_000,
    3,
    None,
    ("a", 1),
    "detr.transformer_dec.decoder.layers.99.norm1.bias",
)


def read(path) -> None:
    """What `mdqe convert` does before it builds the model."""
    state = read_official(path)
    official_sizes(state)
    matching_presets(state)
    convert_official(state, CONFIG)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return pickled(layout("resnet50", 256, 80, 1))


def test_other_names_and_tensors(tensors, tmp_path):
    generator, path = random.Random(0), tmp_path / "official.pth"
    torch.save(tensors, path)
    read(path)
    for number in range(45):
        state = dict(tensors)
        for _ in range(generator.choice((1, 1, 3))):
            name = generator.choice(list(state))
            if number % 3 == 0:
                del state[name]
            elif number % 3 == 1:
                state[name] = generator.choice(VALUES)
            else:
                state[generator.choice(NAMES)] = state.pop(name)
        torch.save({"model": state} if number % 2 else state, path)
        accepts(lambda: read(path), path, "checkpoint", "released")


@pytest.mark.parametrize(
    "value", [*VALUES, {"model": None}, {"model": []}, {"model": {"model": {}}}, {1: torch.zeros(1)}]
)
def test_other_contents(value, tmp_path):
    path = tmp_path / "official.pth"
    torch.save(value, path)
    assert not accepts(lambda: read(path), path, "checkpoint", "released")


def test_damaged_files(tensors, tmp_path):
    path = tmp_path / "official.pth"
    torch.save({name: tensors[name] for name in list(tensors)[:20]}, path)
    for data in damaged_bytes(path.read_bytes(), COUNT, 1):
        path.write_bytes(data)
        accepts(lambda: read_official(path), path)


def test_damaged_pickles_in_a_whole_archive(tensors, tmp_path):
    path = tmp_path / "official.pth"
    torch.save({name: tensors[name] for name in list(tensors)[:20]}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (pickle,) = (name for name in parts if name.endswith("data.pkl"))
    for data in damaged_bytes(parts[pickle], COUNT, 2):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, data if name == pickle else content)
        accepts(lambda: read_official(path), path)
