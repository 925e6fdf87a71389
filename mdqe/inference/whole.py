"""Whole videos, with the groups of frames beside one another on a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdqe.errors import InputError
from mdqe.inference.decode import DecodedClip, decode_clips
from mdqe.inference.overlap import Overlap
from mdqe.inference.postprocess import rank_tracks
from mdqe.inference.session import VideoSession
from mdqe.inference.session_file import SessionState
from mdqe.modeling.network import Network, evaluation_mode
from mdqe.results.instances import VideoInstances


class OverlappedSession(VideoSession):
    """A session that tracks a group of frames while the next one is encoded. Its results come one group later.

    Frames are resized in a thread, which `run` ends, also if it is closed early or fails.

    The arguments are those of `VideoSession` without `on_frame`: the features of a frame are kept for one group only.
    Such a session cannot be saved, because it is at two places of the video at once.
    """

    def __init__(self, model: Network, **options: Any) -> None:
        if options.get("on_frame") is not None:
            raise InputError("on_frame is set, expected None: groups of frames overlap")
        super().__init__(model, **options)
        self._overlap: Overlap | None = None
        self._decoded: list[DecodedClip] = []  # from the next clip on, not yet tracked

    def run(self, frames: Iterable[np.ndarray | Tensor]) -> Iterator[VideoInstances]:
        """Push every frame, then flush; yield the results."""
        with closing(Overlap(self.model.device)) as self._overlap:
            self._encoder.overlap = self._overlap
            yield from super().run(frames)

    def state_dict(self) -> SessionState:
        """Raise an InputError."""
        raise InputError("this session cannot be saved: groups of frames overlap; MDQE.start creates one that can")

    @torch.inference_mode()
    def _advance(self, last: bool = False) -> list[VideoInstances]:
        """As in `VideoSession`, but the clips of a group are tracked after the next group is in the encoder's queue."""
        assert self._overlap is not None, "frames are passed to run"
        results = []
        length, stride = self.config.test_clip_length, self.config.clip_stride
        with evaluation_mode(self.model):
            while self._encoder.has_batch(last):
                first = self._next_clip + len(self._decoded) * stride
                self._encoder.encode_batch(first)
                with self._overlap.beside():
                    results += self._take_final()
                    results += self._track_decoded()
                self._decode(range(self._next_clip, self._encoder.num_encoded - length + 1, stride), length)
            if last:
                with self._overlap.beside():
                    results += self._track_decoded()
                if self._next_clip < self.num_frames:  # the last clip is cut at the end of the video
                    self._decode(range(self._next_clip, self._next_clip + 1), self.num_frames - self._next_clip)
                with self._overlap.beside():
                    for clip in self._decoded:
                        self._track(clip)
                    results += self._take_window(last=True)
        return results

    def _decode(self, starts: range, length: int) -> None:
        assert self._overlap is not None
        self._decoded = list(decode_clips(self.model, self._encoder.buffer.frames, starts, length, self._graphs))
        self._overlap.mark()

    def _track_decoded(self) -> list[VideoInstances]:
        """Track the clips that are decoded."""
        results = []
        for clip in self._decoded:
            self._track(clip)
            results += self._take_final()
        self._decoded = []
        return results


def start_whole(model: Network, **options: Any) -> VideoSession:
    """Start a session for all frames of a video at once, which `run` takes.

    On a GPU its groups of frames overlap, unless `on_frame` is set. On a CPU the network itself uses all cores, and a
    further thread would only take turns with it.
    """
    overlap = model.device.type == "cuda" and options.get("on_frame") is None
    return (OverlappedSession if overlap else VideoSession)(model, **options)


def segment(
    model: Network,
    frames: Iterable[np.ndarray | Tensor],
    *,
    score_threshold: float = 0.3,
    multi_label: bool = False,
    encoder_batch_size: int | None = None,
    **options: Any,
) -> VideoInstances:
    """Find the instances of a whole video; see `MDQE.segment`, and `VideoSession` for the other options."""
    selection: dict[str, Any] = {"score_threshold": score_threshold, "multi_label": multi_label}
    options |= {"by_window": True, "keep_all": True, "encoder_batch_size": encoder_batch_size}
    session = start_whole(model, **selection, **options)
    windows = list(session.run(frames))
    ranked = rank_tracks(session.class_scores(), **selection)
    return VideoInstances.concatenate(windows, **ranked._asdict())
