"""Frames from memory: arrays, tensors, and iterables of frames or of paths of images."""

from collections.abc import Iterator
from fractions import Fraction
from os import PathLike, fspath
from typing import Any

import numpy as np

from mdqe.errors import InputError
from mdqe.video.frames import Frames, VideoError
from mdqe.video.images import load_image

FRAME = "uint8 of (H, W, 3), RGB, or the path of an image"


class ArrayFrames(Frames):
    """Frames from memory: an array or tensor (T, H, W, 3), or any iterable of frames. They are not copied.

    A frame is an array, a tensor, a PIL image or the path of an image file. No thread reads them in advance.
    """

    threaded = False

    def __init__(self, source: Any, name: str = "frames", **selection: Any) -> None:
        super().__init__(name, **selection)
        if self.start is not None or self.end is not None:
            raise InputError("start and end are seconds; frames given as arrays have no times")
        shape = getattr(source, "shape", None)
        if shape is not None and (len(shape) != 4 or shape[-1] != 3):
            single = "; segment_image takes a single image" if len(shape) == 3 and shape[-1] == 3 else ""
            raise VideoError(f"{name} have shape {tuple(shape)}; expected (T, H, W, 3){single}")
        if shape is not None:
            self.size = tuple(shape[1:3])
        self.source = source
        self.repeatable = not isinstance(source, Iterator)
        self.count = -(-len(source) // self.every) if hasattr(source, "__len__") else None

    def _items(self, start: Fraction) -> Iterator[tuple[None, Any]]:
        for frame in self.source:
            yield None, frame

    def _load(self, item: Any) -> np.ndarray:
        if isinstance(item, str | PathLike):
            return load_image(fspath(item))
        if not hasattr(item, "__array__") and not hasattr(item, "__array_interface__"):
            raise VideoError(f"a frame is {type(item).__name__}; expected {FRAME}")
        image = item.detach().cpu().numpy() if hasattr(item, "detach") else np.asarray(item)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise VideoError(f"a frame is {image.dtype} of shape {image.shape}; expected {FRAME}")
        return image
