"""A progress bar on stderr, with speed and time left."""

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from mdqe.cli import say

T = TypeVar("T")


def shown(items: Iterable[T], doing: str, total: int | None, unit: str = "frame") -> Iterator[T]:
    """Iterate over frames or other units under a bar; where stderr is no terminal, a line at the end instead.

    Of several processes that torchrun started, each has a bar in a line of its own, and a line at the end.
    """
    start, number = time.monotonic(), 0
    columns, rows = shutil.get_terminal_size((100, 24))  # tqdm draws nothing where a terminal claims to have none
    several, line = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1, int(os.environ.get("LOCAL_RANK", 0))
    place: dict[str, Any] = {"position": line, "leave": False} if several else {}
    bar = tqdm(items, doing, total, unit=unit, file=sys.stderr, disable=None, ncols=columns, nrows=rows, **place)
    silent = bar.disable or several  # closing it changes that
    try:
        for item in bar:
            yield item
            number += 1
    finally:
        bar.close()
        if silent:
            seconds = time.monotonic() - start
            say(f"{doing}: {number} {unit}s in {seconds:.1f} s ({number / max(seconds, 1e-9):.2f} {unit}s/s)")
