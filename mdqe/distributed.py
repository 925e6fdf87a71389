"""The processes of a run: a single process, or the processes of torchrun on one or several machines."""

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
    """The rank of this process in its group; 0 without a group. The process with rank 0 writes files."""
    return distributed.get_rank() if _together() else 0


def ranks() -> int:
    """The number of processes in the group; 1 without a group."""
    return distributed.get_world_size() if _together() else 1


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank. All processes must call it."""
    if not _together():
        return [value]
    values: list[Any] = [None] * ranks()
    distributed.all_gather_object(values, value)
    return values


def share(items: list[T]) -> list[T]:
    """The items of this process: item `rank()` and every `ranks()`-th item after it."""
    return items[rank() :: ranks()]


def started() -> int:
    """The number of processes that torchrun started, also before they form a group; 0 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else 0


def local() -> tuple[int, int]:
    """The rank of this process among the processes of torchrun on this machine, and their number."""
    return int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def wait_for_all() -> None:
    """Wait until all processes call this function, without a timeout. Ctrl-C interrupts the wait.

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
        raise ConnectionError("another process ended early; finished work is kept") from error


@contextmanager
def sharing() -> Iterator[None]:
    """Inside the block, the processes of torchrun form a group that divides its work with `share`.

    The group uses gloo also on GPUs, because it exchanges only small objects, and one process may be busy for days. All
    processes leave the block together: if one ended with a status other than 0 before, torchrun would stop the others,
    and their output would be lost.
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
    """Yield the device of this process. Inside the block, the processes of torchrun form a group for training.

    Processes on GPUs use NCCL, each with the GPU of its local rank. Processes on CPUs use gloo.

    Args:
        device: such as "cpu" or "cuda:1"; None: CUDA if available. With torchrun, only "cpu" or "cuda".

    Raises:
        InputError: there is no such device.
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
        try:
            torch.empty(1, device=device).tolist()
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # the type depends on the device
            raise InputError(f"device is {name!r}, which torch {torch.__version__} cannot use") from error
        return device
    if local_rank is not None and device.index is not None:
        raise InputError(f"device is {name!r}, but torchrun gives every process a GPU of its own: expected 'cuda'")
    index = local_rank if local_rank is not None else device.index or 0
    if index >= torch.cuda.device_count():
        raise InputError(
            f"device is 'cuda:{index}', but torch {torch.__version__} finds {torch.cuda.device_count()} CUDA devices"
        )
    return torch.device("cuda", index)


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()
