"""Forged sessions with a right fingerprint: one error that names the file and the entry, or a session that works."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import accepts, damaged_bytes
from mutations import mutations
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import moving_squares, small_model
from torch import Tensor

from mdqe import MDQE
from mdqe.errors import InputError
from mdqe.inference.session_file import _content

VIDEO = moving_squares(17)
# The model's configuration, the options, and the number of frames in the session.
SESSIONS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "frame by frame": ({}, {}, 9),
    "windows, in batches": ({}, {"by_window": True, "encoder_batch_size": 3}, 10),
    "whole clips": ({"clip_stride": 4}, {}, 8),
    "with new ids": ({"relink": True}, {}, 9),
    "new": ({}, {}, 0),
}


class Saved:
    """A session, its model, and a file for variants of it."""

    def __init__(self, name: str, folder: Path) -> None:
        changes, options, frames = SESSIONS[name]
        self.model: MDQE = small_model(**changes).float()
        self.path = folder / "camera.session"
        session = self.model.start(score_threshold=0.0, **options)
        for frame in VIDEO[:frames]:
            session.push(frame)
        session.save(self.path)
        self.data, self.rest = self.path.read_bytes(), VIDEO[frames : frames + 5]
        self.tensors = load_file(self.path)
        with safe_open(self.path, "pt") as file:
            self.description: dict[str, Any] = json.loads(file.metadata()["mdqe-session"])

    def forge(self, tensors: dict[str, Tensor], text: str) -> None:
        """Write a file whose fingerprint is that of its contents."""
        try:
            description = json.loads(text)
        except (ValueError, RecursionError):
            description = None
        if isinstance(description, dict):
            description.pop("content", None)
            text = json.dumps({**description, "content": _content(description, tensors)})
        save_file({name: x.contiguous() for name, x in tensors.items()}, self.path, metadata={"mdqe-session": text})

    def run(self) -> None:
        """Continue to the end."""
        session = self.model.resume(self.path)
        for frame in self.rest:
            session.push(frame)
        session.flush()


@pytest.fixture(scope="module", params=SESSIONS)
def saved(request, tmp_path_factory) -> Saved:
    return Saved(request.param, tmp_path_factory.mktemp("session"))


def test_the_forged_original_is_accepted(saved):
    saved.forge(saved.tensors, json.dumps(saved.description))
    saved.run()
    assert saved.model.resume(saved.path).num_frames == saved.description["counts"]["num_frames"]


def test_damaged_descriptions(saved):
    accepted = 0
    for text in mutations(saved.description, 60, 0):
        saved.forge(saved.tensors, text.decode(errors="replace"))
        accepted += accepts(saved.run, saved.path)
    assert accepted < 30


Change = Callable[[dict[str, Tensor], str], None]
TYPES = (torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool)


def changed(change: Callable[[Tensor], Tensor]) -> Change:
    return lambda tensors, name: tensors.update({name: change(tensors[name])})


def with_value(value: float) -> Change:
    """One number is replaced, if the type can hold the value."""

    def replace(x: Tensor) -> Tensor:
        x = x.clone()
        if x.numel() and (x.is_floating_point() or (x.dtype == torch.int64 and abs(value) < 2**63)):
            x.view(-1)[x.numel() // 2] = value
        return x

    return changed(replace)


TENSOR_CHANGES: tuple[Change, ...] = (
    lambda tensors, name: tensors.__delitem__(name),
    lambda tensors, name: tensors.update({name + ".more": tensors[name].clone()}),
    lambda tensors, name: tensors.update({"a\nb\x1b": tensors.pop(name)}),
    lambda tensors, name: tensors.update({name.replace("frames.", "frames.0"): tensors.pop(name)}),
    lambda tensors, name: tensors.update({name.replace("frames.", "frames.9007199254740992"): tensors.pop(name)}),
    *(changed(lambda x, dtype=dtype: x.to(dtype)) for dtype in TYPES),
    changed(lambda x: x[None]),
    changed(lambda x: x.flatten()),
    changed(lambda x: x[:-1] if x.dim() else x[None]),
    changed(lambda x: torch.cat([x, x]) if x.dim() else x.repeat(2)),
    changed(lambda x: x.flip(0) if x.dim() else x),
    changed(lambda x: x[:, :-1].contiguous() if x.dim() > 1 else x[None][:0]),
    changed(lambda x: x.new_zeros(0, 2**40)),
    changed(lambda x: x.new_zeros(2**31, 0)),
    *map(with_value, (float("nan"), float("inf"), -1, 0, 2**31, 2**62, 1e30)),
)


def tensor_changes(tensors: dict[str, Tensor], count: int, seed: int) -> Iterator[dict[str, Tensor]]:
    generator = random.Random(seed)
    for number in range(count):
        forged = dict(tensors)
        for _ in range(generator.choice((1, 1, 2))):
            TENSOR_CHANGES[number % len(TENSOR_CHANGES)](forged, generator.choice(list(forged)))
        yield forged


def test_damaged_tensors(saved):
    text, accepted, count = json.dumps(saved.description), 0, 2 * len(TENSOR_CHANGES)
    for tensors in tensor_changes(saved.tensors, count, 0):
        saved.forge(tensors, text)
        accepted += accepts(saved.run, saved.path)
    assert accepted < count


def test_damaged_files(saved):
    for data in damaged_bytes(saved.data, 20, 0):
        saved.path.write_bytes(data)
        assert data == saved.data or not accepts(saved.run, saved.path)


COUNTS = ("num_frames", "num_encoded", "next_clip", "viewed")


@pytest.mark.parametrize("value", [-1, 1, 4, 7, 2**31, 2**62, 2**70, None, "9", 9.0, True, [9]])
@pytest.mark.parametrize("name", [*COUNTS, "windows", "buffer_start", "frame_size"])
def test_every_number_is_checked(saved, name, value):
    description = json.loads(json.dumps(saved.description))
    home = description["counts"] if name in COUNTS else description
    if home[name] == value:
        return
    home[name] = value
    saved.forge(saved.tensors, json.dumps(description))
    if accepts(saved.run, saved.path):
        assert name in ("viewed", "buffer_start")
    else:
        follows = name in ("num_frames", "windows", "frame_size")  # other numbers follow from these
        with pytest.raises(InputError, match="is not a valid session: " + ("" if follows else f"'{name}' is")):
            saved.model.resume(saved.path)


def test_a_pipe_is_not_waited_for(saved, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not accepts(lambda: saved.model.resume(tmp_path / "pipe"), tmp_path / "pipe")
    assert not accepts(lambda: saved.model.resume(tmp_path), tmp_path)
