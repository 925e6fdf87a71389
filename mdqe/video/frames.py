"""`Frames`, the base class of all sources of frames: selection, checks, and decoding ahead in a thread."""

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from mdqe.errors import InputError

T = TypeVar("T")


class VideoError(InputError):
    """A source of frames cannot be used. The message is one line that names the source."""


def require_regular(path: Path) -> None:
    """Raise a VideoError if the path is a device, a pipe or a socket: reading it could wait for ever."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise VideoError(f"{path} is a device, a pipe or a socket; expected a file (a camera is named by its number)")


class TimedFrame(NamedTuple):
    """A frame and its time.

    Attributes:
        time: seconds from the beginning of the source; None if the source has no times.
        image: (H, W, 3) uint8, RGB.
    """

    time: Fraction | None
    image: np.ndarray


class Frames:
    """The selected frames of a source, in order, decoded on demand.

    Iteration yields (H, W, 3) uint8 RGB arrays of one size. A thread decodes up to `ahead` frames in advance. `timed`
    yields the frames with their times. Errors of the decoder are raised by the iteration. A `repeatable` source can be
    iterated any number of times.

    A subclass implements `_items(start)`, which yields (time, item) for every frame from `start` seconds on or
    earlier, and `_load(item)`, which returns the array. Items that are not selected are never loaded.

    Attributes:
        name: the name of the source in messages and output files.
        size: (H, W) of the frames; None until the first frame if it is not known before.
        fps: selected frames per second, on average; None if the source has no times.
        count: number of selected frames, an estimate for video files; None if unknown.
        pixel_aspect: width of a pixel divided by its height. It is 1 if the file does not say it, and for images and
            arrays. Frames are not scaled by it: they have the stored pixels.
        finish: after an iteration, the time at which the last selected frame ends; None if the source has no times.
        damage: after an iteration, one line on what was missing or could not be decoded; None if there was no damage.
    """

    repeatable = True
    threaded = True

    def __init__(
        self, name: str, *, every: int = 1, start: float | None = None, end: float | None = None, ahead: int = 30
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(f"every is {every!r}; expected a whole number of at least 1")
        if start is not None and not 0 <= start < float("inf"):
            raise InputError(f"start is {start!r}; expected seconds, at least 0")
        if end is not None and not (start or 0) < end:
            raise InputError(f"end is {end!r}; expected seconds after start={start or 0}")
        self.name = name
        self.every, self.ahead = every, ahead
        self.start, self.end = _seconds(start), _seconds(end)
        self.size: tuple[int, int] | None = None
        self.fps: Fraction | None = None
        self.count: int | None = None
        self.pixel_aspect = Fraction(1)
        self.finish: Fraction | None = None
        self.damage: str | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self.timed():
            yield frame.image

    def timed(self) -> Generator[TimedFrame, None, None]:
        """Iterate over the selected frames with their times."""
        self.damage = self.finish = None
        return read_ahead(self._selected(), self.ahead) if self.threaded else self._selected()

    def _items(self, start: Fraction) -> Iterable[tuple[Fraction | None, Any]]:
        raise NotImplementedError

    def _load(self, item: Any) -> np.ndarray:
        raise NotImplementedError

    def _selected(self) -> Generator[TimedFrame, None, None]:
        number = 0  # frames in the time range, selected or not
        for time, item in self._items(self.start or Fraction(0)):
            if self.end is not None and time is not None and time >= self.end:
                break
            if self.start is not None and time is not None and time < self.start:
                continue
            if number % self.every == 0:
                yield TimedFrame(time, self._checked(self._load(item), number))
            number += 1
        if number == 0:
            where = " in the time range" if self.start is not None or self.end is not None else ""
            raise VideoError(f"{self.name} holds no frames{where}" + (f": {self.damage}" if self.damage else ""))

    def _checked(self, image: np.ndarray, number: int) -> np.ndarray:
        size = image.shape[:2]
        if self.size is None:
            self.size = size
        if size != self.size:
            raise VideoError(
                f"frame {number} of {self.name} is {size[1]}x{size[0]}; the frames before it are "
                f"{self.size[1]}x{self.size[0]}"
            )
        return image


def _seconds(value: float | None) -> Fraction | None:
    """The nearest simple fraction: 0.4 becomes 2/5, the exact time of frame 10 at 25 frames per second."""
    return None if value is None else Fraction(value).limit_denominator(1_000_000)


class _End(NamedTuple):
    error: BaseException | None


def read_ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Iterate over `items` in a thread that works up to `depth` items ahead.

    An exception of `items` is raised at the same position. If the caller stops early, the thread finishes its current
    item and ends before this generator is closed.
    """
    ready: queue.Queue[Any] = queue.Queue(max(1, depth))
    stopped = threading.Event()

    def work() -> None:
        error = None
        try:
            for item in items:
                ready.put(item)
                if stopped.is_set():
                    break
        except BaseException as failure:  # raised again in the consumer
            error = failure
        if hasattr(items, "close"):
            items.close()
        ready.put(_End(error))

    thread = threading.Thread(target=work, name="mdqe-read-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        while thread.is_alive():  # the queue may be full
            try:
                ready.get(timeout=0.02)
            except queue.Empty:
                continue
        thread.join()
