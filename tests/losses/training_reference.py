"""A training step of the authors' released code: two clips of 4 and 6 overlapping objects, and what it made of them.

`data/` holds what proves parity; `python tests/losses/training_reference.py SHARED` makes it from the full file.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from mdqe.targets import ClipTargets

DATA = Path(__file__).parent / "data"
SIZE = (96, 128)
DESCRIBED = ("assignment", "weighted_losses", "total", "grad_norm")
ARRAYS = (
    "frames", "sem_target.labels", "sem_target.ids", "sem_target.distance_sum", "out.query_init_inst_id",
    *(f"target{i}.{name}" for i in range(2) for name in ("labels", "ids", "boxes_xyxy", "masks")),
)  # fmt: skip


def described() -> dict[str, Any]:
    """Assignments, losses and gradient norms."""
    return json.loads((DATA / "train_r50.json").read_text())


def arrays() -> dict[str, Tensor]:
    """Frames and targets."""
    with np.load(DATA / "train_r50.npz") as packed:
        return {key: torch.from_numpy(packed[key]) for key in packed.files}


def full(shared: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The full file's description and arrays."""
    stem = shared / "golden" / "train_r50"
    return json.loads(stem.with_suffix(".json").read_text()), load_file(stem.with_suffix(".safetensors"))


def clip_targets(reference: dict[str, Tensor], clip: int) -> ClipTargets:
    """The objects of one of the two clips."""
    height, width = SIZE
    labels, ids, boxes, masks = (reference[f"target{clip}.{n}"] for n in ("labels", "ids", "boxes_xyxy", "masks"))
    return ClipTargets(labels, ids, masks.bool(), boxes * boxes.new_tensor([width, height, width, height]))


if __name__ == "__main__":
    meta, everything = full(Path(sys.argv[1]))
    DATA.mkdir(exist_ok=True)
    np.savez_compressed(DATA / "train_r50.npz", **{key: everything[key].numpy() for key in ARRAYS})
    kept = {key: meta[key] for key in DESCRIBED}
    (DATA / "train_r50.json").write_text(json.dumps(kept, separators=(",", ":")) + "\n")
