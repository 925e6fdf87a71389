"""Whole videos: a loop over the session (paper Sec. 3.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mdqe.inference.result import VideoInstances
from mdqe.inference.session import VideoSession
from mdqe.inference.views import FrameView
from mdqe.inference.windows import select

if TYPE_CHECKING:
    from mdqe.model import MDQE


def stream(
    model: MDQE,
    frames: Iterable[np.ndarray | Tensor],
    *,
    score_threshold: float = 0.3,
    multi_label: bool = False,
    output_size: tuple[int, int] | None = None,
) -> Iterator[VideoInstances]:
    """Results window by window; see `MDQE.stream`."""
    session = VideoSession(
        model,
        score_threshold=score_threshold,
        multi_label=multi_label,
        output_size=output_size,
        by_window=True,
        frames_at_once=None,
    )
    yield from _results(session, frames)


def segment(
    model: MDQE,
    frames: Iterable[np.ndarray | Tensor],
    *,
    score_threshold: float = 0.3,
    multi_label: bool = False,
    output_size: tuple[int, int] | None = None,
    frames_at_once: int | None = None,
    on_frame: Callable[[FrameView], None] | None = None,
) -> VideoInstances:
    """The instances of a whole video; see `MDQE.segment`, and `VideoSession` for the last two arguments."""
    session = VideoSession(
        model,
        score_threshold=score_threshold,
        multi_label=multi_label,
        output_size=output_size,
        by_window=True,
        frames_at_once=frames_at_once,
        keep_all=True,
        on_frame=on_frame,
    )
    windows = list(_results(session, frames))
    return VideoInstances.concatenate(windows, **select(session.class_scores(), score_threshold, multi_label)._asdict())


def _results(session: VideoSession, frames: Iterable[np.ndarray | Tensor]) -> Iterator[VideoInstances]:
    for frame in frames:
        yield from session.push(frame)
    yield from session.flush()
