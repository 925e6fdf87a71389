"""Figures of the package's structure: rooms, files in the root, lines, and the files that one frame and one clip cross.

    python examples/benchmarks/structure.py

A room is a file of the package's root or a folder. A frame's way goes from a video file to a saved result
(`MDQE.segment`, `VideoInstances.save`), a clip's way from a batch to the update of the weights (`TrainingStep`). A file
is on the way if one of its functions is called there.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import mdqe
from mdqe import MDQE
from mdqe.data.loader import collate
from mdqe.data.synthetic import SyntheticClips, demo_scene
from mdqe.training.step import TrainingStep
from mdqe.video.write import VideoWriter

PACKAGE = Path(mdqe.__file__).resolve().parent


@contextmanager
def called_files() -> Iterator[set[str]]:
    """Collect the package's files of which a function is called inside the block."""
    found: set[str] = set()

    def profile(frame: Any, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and frame.f_code.co_name != "<module>" and name.startswith(str(PACKAGE)):
            found.add(str(Path(name).relative_to(PACKAGE)))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def frame_way(model: MDQE, folder: Path) -> set[str]:
    """The files that a frame crosses from a video file to a saved result."""
    drawing = demo_scene(frames=8)
    with VideoWriter(folder / "video.mp4", fps=10) as writer:
        for frame in drawing.frames:
            writer.write(frame)
    with called_files() as found:
        model.segment(folder / "video.mp4").save(folder / "result.json")
    return found


def clip_way(model: MDQE) -> set[str]:
    """The files that a clip crosses from a batch to the update of the weights."""
    source, generator = SyntheticClips(4), torch.Generator().manual_seed(0)
    batch = collate([source.clip(index, generator) for index in range(2)])
    step = TrainingStep(model.train(), torch.optim.SGD(model.parameters(), lr=1e-5))
    with called_files() as found:
        step([batch])
    return found


def main() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    root = [path for path in files if path.parent == PACKAGE]
    rooms = {path.relative_to(PACKAGE).parts[0] for path in files}
    lines = sum(len(path.read_text().splitlines()) for path in files)
    print(f"{len(rooms)} rooms, {len(root)} files in the root, {len(files)} files, {lines:,} lines")
    model = MDQE.from_pretrained("mdqe:tiny")
    with tempfile.TemporaryDirectory() as folder:
        for name, way in (("frame", frame_way(model, Path(folder))), ("clip", clip_way(model))):
            print(f"\na {name} crosses {len(way)} files:")
            print("\n".join(f"  {path}" for path in sorted(way)))


if __name__ == "__main__":
    main()
