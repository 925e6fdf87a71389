"""The processes that work together: one alone, or those that torchrun started, on one machine or several."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from mdqe.errors import InputError

T = TypeVar("T")


def rank() -> int:
    """The number of this process among those that work together; 0 writes."""
    return distributed.get_rank() if _together() else 0


def ranks() -> int:
    """How many processes work together."""
    return distributed.get_world_size() if _together() else 1


def gather(value: Any) -> list[Any]:
    """Every process' value, by rank; all of them must call it."""
    if not _together():
        return [value]
    values: list[Any] = [None] * ranks()
    distributed.all_gather_object(values, value)
    return values


def share(items: list[T]) -> list[T]:
    """The items that are this process' own: every so many, from its rank on."""
    return items[rank() :: ranks()]


def started() -> int:
    """How many processes torchrun started, with or without a group yet; 0 where it did not start this one."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else 0


def local() -> tuple[int, int]:
    """The number of this process among those that torchrun started on this machine, and how many they are."""
    return int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def wait_for_all() -> None:
    """Return when every process has come here, however long that takes; Ctrl-C is heard meanwhile.

    Raises:
        ConnectionError: another process has ended.
    """
    if not _together():
        return
    try:
        work = distributed.barrier(async_op=True)
        while not work.is_completed():
            time.sleep(0.05)
        work.wait()
    except RuntimeError as error:
        raise ConnectionError("another process ended before its time; what is done is kept") from error


@contextmanager
def sharing() -> Iterator[None]:
    """Within it the processes that torchrun started, if it did, form a group that shares work out, with `share`.

    They meet through gloo, on GPUs too: they exchange words, not tensors, and one may be busy for days. They leave
    together: where one ends with a status but 0 torchrun ends the others, and what those had yet to say would be lost.
    """
    if not started():
        yield
        return
    distributed.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        yield
        wait_for_all()
    finally:
        distributed.destroy_process_group()


@contextmanager
def process_group(device: str | None = None) -> Iterator[torch.device]:
    """The device of this process; within it the processes that torchrun started, if it did, train together.

    NCCL joins processes on GPUs, each on the one of its local rank; gloo joins those on CPUs.

    Args:
        device: such as "cpu" or "cuda:1"; None: CUDA where there is one. Under torchrun "cpu" or "cuda" alone.

    Raises:
        ValueError: a device that is not there.
    """
    chosen = _device(device, local()[0] if started() else None)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if not started():
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
        raise InputError(f"device is {name!r}, expected one such as 'cpu' or 'cuda:0'") from error
    if device.type != "cuda":
        return device
    if local_rank is not None and device.index is not None:
        raise InputError(f"device is {name!r}, but torchrun gives every process a GPU of its own: expected 'cuda'")
    index = local_rank if local_rank is not None else device.index or 0
    if index >= torch.cuda.device_count():
        raise InputError(f"device is 'cuda:{index}', but torch {torch.__version__} finds {torch.cuda.device_count()}")
    return torch.device("cuda", index)


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()
