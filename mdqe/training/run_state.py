"""The state of a run: checkpoint files and random generators.

A file contains plain values and tensors. It is written completely or not at all, and reading it unpickles no objects.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdqe.errors import InputError
from mdqe.files import whole_binary_file


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write plain values and tensors. The old file remains until the new one is complete and on the disk.

    Raises:
        OSError: for example, the disk is full; the message names the file.
    """
    with whole_binary_file(path, durable=True) as file:
        torch.save(state, file)


def load_state(path: Path) -> dict[str, Any]:
    """Read a file of `save_state`; tensors are on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or a damaged one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, depending on the damage
        size = path.stat().st_size
        raise InputError(f"{path} is damaged or not a file of a training run ({size:,} bytes)") from error


def random_state() -> dict[str, Any]:
    """Return the state of every random generator that training may use in this process."""
    numbers, words = np.random.get_state(legacy=False), random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": {
            "key": torch.from_numpy(numbers["state"]["key"].astype(np.int64)),
            "pos": int(numbers["state"]["pos"]),
            "has_gauss": int(numbers["has_gauss"]),
            "gauss": float(numbers["gauss"]),
        },
        "python": {"version": words[0], "words": torch.tensor(words[1]), "gauss": words[2]},
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the generators to a state of `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])
    numbers, words = state["numpy"], state["python"]
    key = numbers["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, numbers["pos"], numbers["has_gauss"], numbers["gauss"]))
    random.setstate((words["version"], tuple(words["words"].tolist()), words["gauss"]))


def seed_all(seed: int) -> None:
    """Seed every random generator that training may use."""
    torch.manual_seed(seed)  # CUDA's too
    np.random.seed(seed % 2**32)
    random.seed(seed)
