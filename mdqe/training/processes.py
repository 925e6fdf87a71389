"""The processes that train together: one alone, or those that torchrun started, on one machine or several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed


def rank() -> int:
    """The number of this process among those that train together; 0 writes."""
    return distributed.get_rank() if _together() else 0


def ranks() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _together() else 1


def gather(value: Any) -> list[Any]:
    """Every process' value, by rank; all of them must call it."""
    if not _together():
        return [value]
    values: list[Any] = [None] * ranks()
    distributed.all_gather_object(values, value)
    return values


@contextmanager
def process_group(device: str | None = None) -> Iterator[torch.device]:
    """The device of this process; within it the processes that torchrun started, if it did, form a group.

    NCCL joins processes on GPUs, each on the one of its local rank; gloo joins those on CPUs.

    Args:
        device: such as "cpu" or "cuda:1"; None: CUDA where there is one. Under torchrun "cpu" or "cuda" alone.

    Raises:
        ValueError: a device that is not there.
    """
    started = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", 0)) if started else None)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if not started:
        yield chosen
        return
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen
    finally:
        distributed.destroy_process_group()


def _device(name: str | None, local_rank: int | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}, expected one such as 'cpu' or 'cuda:0'") from error
    if device.type != "cuda":
        return device
    if local_rank is not None and device.index is not None:
        raise ValueError(f"device is {name!r}, but torchrun gives every process a GPU of its own: expected 'cuda'")
    index = local_rank if local_rank is not None else device.index or 0
    if index >= torch.cuda.device_count():
        raise ValueError(f"device is 'cuda:{index}', but torch {torch.__version__} finds {torch.cuda.device_count()}")
    return torch.device("cuda", index)


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()
