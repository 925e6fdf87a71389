"""How far a saved session is in its video, and the checks of that: most of it follows from the number of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mdqe.config import MDQEConfig
from mdqe.errors import InputError
from mdqe.inference.frame_buffer import FrameEncoder
from mdqe.inference.saved_state import MOST, whole_number
from mdqe.inference.tracker import ClipTracker
from mdqe.modeling.mask_head import MASK_STRIDE
from mdqe.modeling.preprocess import padded_size
from mdqe.ops.reference import at_least_float32

MOST_PIXELS = 2**31 - 1
"""Of a mask: the largest run of run-length encoding."""


class Progress(NamedTuple):
    """The position of a session in its video; see `VideoSession.state_dict`."""

    frame_size: tuple[int, int] | None
    num_frames: int
    num_encoded: int
    next_clip: int
    viewed: int
    windows: int
    buffer_start: int


def is_size(value: Any) -> bool:
    """Whether a value is the (height, width) of masks or frames."""
    if not isinstance(value, Sequence | np.ndarray) or len(value) != 2:
        return False
    if not all(isinstance(edge, int | np.integer) and not isinstance(edge, bool) and edge >= 1 for edge in value):
        return False
    return int(value[0]) * int(value[1]) <= MOST_PIXELS


def read_progress(description: Mapping[str, Any]) -> Progress:
    """The position in a description.

    Raises:
        InputError: an entry is missing, or has another type; names it.
    """
    size = description.get("frame_size")
    if size is not None and not is_size(size):
        raise InputError(f"'frame_size' is {str(size)[:40]!r}, expected [height, width] in pixels or null")
    counts = description.get("counts")
    names = ("num_frames", "num_encoded", "next_clip", "viewed")
    numbers = [whole_number(counts, name) for name in names]
    numbers += [whole_number(description, name) for name in ("windows", "buffer_start")]
    return Progress(None if size is None else (size[0], size[1]), *numbers)


def check_progress(
    given: Progress, config: MDQEConfig, tracker: ClipTracker, encoder: FrameEncoder, by_window: bool
) -> None:
    """Check that a position, the tracker's and the options fit each other.

    Args:
        given: the position.
        config: of the model.
        tracker: with its state.
        encoder: which has begun, unless there are no frames.
        by_window: option of the session.

    Raises:
        InputError: they do not; names an entry.
    """
    length, stride = config.test_clip_length, config.clip_stride
    encoded = given.num_frames // max(encoder.batch_size, 1) * encoder.batch_size
    clips = (encoded - length) // stride + 1 if encoded >= length else 0  # a clip runs when its last frame is encoded
    next_clip, start = clips * stride, given.windows * config.window_length
    taken = next_clip // config.window_length  # a window ends when the frame of the next clip after it has arrived
    late = (next_clip - stride) // config.window_length if clips and next_clip == encoded else taken
    next_frame = start if by_window else min(next_clip, start + config.window_length)
    rules = {  # the number, the smallest and the largest valid one
        "num_frames": (given.num_frames, *((0, 0) if given.frame_size is None else (1, MOST))),
        "num_encoded": (given.num_encoded, encoded, encoded),
        "next_clip": (given.next_clip, next_clip, next_clip),
        "viewed": (given.viewed, 0, given.num_frames),
        "windows": (given.windows, late, taken),
        "buffer_start": (given.buffer_start, max(encoded - encoder.buffer.capacity, 0), next_clip),
        "tracker.window_start": (tracker.window_start, start, start),
        "tracker.next_frame": (tracker.next_frame, next_frame, next_frame),
        "tracker.last_clip_start": (tracker.last_clip_start, *((next_clip - stride if clips else -1,) * 2)),
        "tracker.frames_end": (tracker.frames_end, *((next_clip - stride + length if clips else 0,) * 2)),
        "tracker.ended": (tracker.ended, False, False),
        "tracker.memory.clips": (tracker.num_clips, clips, clips),
    }
    for name, (number, low, high) in rules.items():
        if not low <= number <= high:
            expected = f"{low}" if low == high else f"{low} to {high}"
            raise InputError(f"{name!r} is {number}, expected {expected} after {given.num_frames} frames")
    if clips:
        _check_formats(config, tracker, encoder)


def _check_formats(config: MDQEConfig, tracker: ClipTracker, encoder: FrameEncoder) -> None:
    """Check that the sums of the tracker have the sizes and the type of the model's predictions."""
    height, width = padded_size(encoder.size)
    sizes = ((config.num_classes,), (height // MASK_STRIDE, width // MASK_STRIDE), (config.hidden_dim,))
    dtype = at_least_float32(encoder.model.dtype)
    for name, known, size in zip(("class_sums", "no_masks", "embeddings"), tracker.formats, sizes, strict=True):
        if tuple(known.shape[1:]) != size or known.dtype != dtype:
            raise InputError(
                f"the tensor 'tracker.memory.{name}' has rows of {tuple(known.shape[1:])} {known.dtype}, "
                f"expected {size} {dtype}"
            )
