"""Damaged model folders: loaded, or one error that names the file, in limited time."""

import json
import struct
from pathlib import Path

import pytest
import torch
from fuzzing import accepts, damaged_bytes
from hub_client import SmallModel
from mutations import mutations
from safetensors.torch import load_file, save_file
from small_models import OPTIONS

from mdqe import MDQE, MDQEConfig

COUNT = 120
TYPES = (
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.int64,
    torch.int8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
)  # fmt: skip


def test_config(folder):
    path = folder / "config.json"
    document, accepted = json.loads(path.read_text()), 0
    for data in mutations(document, COUNT, 0):
        path.write_bytes(data)
        accepted += accepts(lambda: SmallModel.from_pretrained(folder), path, folder / "model.safetensors")
    assert accepted < COUNT / 2


def test_config_of_a_whole_model(tmp_path):
    """The network, which is built before the weights are read, takes every configuration that is accepted."""
    MDQE(MDQEConfig(**OPTIONS)).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    document, accepted = json.loads(path.read_text()), 0
    for data in mutations(document, 50, 1):
        path.write_bytes(data)
        accepted += accepts(lambda: MDQE.from_pretrained(tmp_path), path, tmp_path / "model.safetensors", "backbone")
    assert accepted < 25


def test_headers_of_the_weights(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    document, accepted = json.loads(data[8 : 8 + length]), 0
    for text in mutations(document, COUNT, 2):
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        accepted += accepts(lambda: SmallModel.from_pretrained(folder), path)
    assert accepted < COUNT / 2


@pytest.mark.parametrize("length", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_lengths_of_the_header(folder, length):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    assert not accepts(lambda: SmallModel.from_pretrained(folder), path)


def test_bytes_of_the_weights(folder):
    path = folder / "model.safetensors"
    for data in damaged_bytes(path.read_bytes(), COUNT, 3):
        path.write_bytes(data)
        accepts(lambda: SmallModel.from_pretrained(folder), path)  # other values of the weights cannot be noticed


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_types_of_the_weights(folder, dtype):
    path = folder / "model.safetensors"
    save_file({name: x.to(dtype) for name, x in load_file(path).items()}, path)
    assert accepts(lambda: SmallModel.from_pretrained(folder), path) == (dtype != torch.complex64)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "x" * 100_000, "", "é" * 5000])
def test_names_of_tensors(folder: Path, name: str):
    path = folder / "model.safetensors"
    save_file({**load_file(path), name: torch.zeros(2)}, path)
    assert not accepts(lambda: SmallModel.from_pretrained(folder), path)
