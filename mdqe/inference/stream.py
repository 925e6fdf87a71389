"""Near-online inference: frames → windows of encoded frames → clips → tracks → results (paper Sec. 3.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mdqe.frames import as_frame, resize, resized_size
from mdqe.inference.encoded import EncodedFrames, FrameBuffer, encode_frames
from mdqe.inference.filtering import DUPLICATE_SIMILARITY, ClipDetections, filter_clip
from mdqe.inference.result import VideoInstances
from mdqe.inference.tracker import ClipTracker
from mdqe.inference.windows import ScoreSums, add_window, benchmark_pairs, video_scores, window_masks

if TYPE_CHECKING:
    from mdqe.model import MDQE


CACHED_PIXELS = 2**18  # of frames encoded together on a CPU: 32 MiB hold their widest activations


class FrameView(NamedTuple):
    """Where a frame's queries began (the paper's Fig. 5)."""

    frame: int
    points: np.ndarray
    """(Q, 2) xy in [0, 1] of the frame; beyond 1 in its padding."""
    track_ids: np.ndarray
    """(Q,): the track that the query, or one like it, was matched to; −1 for none."""
    activation: np.ndarray
    """(h, w) in [0, 1]: the largest class activation at stride 8; all 0 where queries are learned, for want of one."""


class VideoSession:
    """The state of one video under way: push its frames, take the results of windows as they become final.

    Args:
        model: an `MDQE`.
        output_size: (height, width) of the masks; None: that of the frames.
        frames_at_once: frames that are encoded together. More is faster on a GPU, one is the least delay for a
            camera. None: 16 on a GPU; on a CPU 1, or up to 4 small ones.
        on_frame: called with a `FrameView` of every frame, in order.
        choose: the rows of a window's result, from the class scores (N, K) of all tracks so far: scores, labels and
            track_ids (n,), best first. Rows of tracks that the window did not see are left out. None: every track that
            it saw, with its best class.
        choose_early: False: before the last window, which has the final scores, windows have the rows of None.

    Holds the encoded frames that clips still need, the tracker's sums of the current window and, of the whole video,
    per-track class scores and embeddings.
    """

    def __init__(
        self,
        model: MDQE,
        *,
        output_size: tuple[int, int] | None = None,
        frames_at_once: int | None = None,
        on_frame: Callable[[FrameView], None] | None = None,
        choose: Callable[[Tensor], dict[str, np.ndarray]] | None = None,
        choose_early: bool = True,
    ) -> None:
        if output_size is not None and (len(output_size) != 2 or min(output_size) < 1):
            raise ValueError(f"output_size is {output_size}, expected (height, width) in pixels")
        if frames_at_once is not None and frames_at_once < 1:
            raise ValueError(f"frames_at_once is {frames_at_once}, expected at least 1")
        c = self.config = model.config
        self.model = model
        self.output_size = output_size
        self.frames_at_once = frames_at_once
        self.on_frame = on_frame
        self.choose = choose
        self.choose_early = choose_early
        clips = (c.test_clip_length, c.clip_stride, c.window_length)
        self.tracker = ClipTracker(*clips, c.score_threshold, c.iou_weight, c.similarity_weight)
        self.frame_size: tuple[int, int] | None = None
        self._waiting: list[Tensor] = []  # resized frames (3, H, W) not yet encoded
        self._encoded: FrameBuffer | None = None
        self._num_frames = 0  # encoded or waiting
        self._next_clip = 0
        self._sums: ScoreSums | None = None
        self._viewed = 0

    def push(self, frame: np.ndarray | Tensor) -> list[VideoInstances]:
        """Take the next frame, (H, W, 3) uint8 RGB; return the windows that became final, often none.

        Scores and labels are those of the windows so far.

        Raises:
            ValueError: a frame of another type, shape, or size than the first one.
        """
        frame = as_frame(frame, self._num_frames, self.frame_size)
        if self.frame_size is None:
            self.frame_size = (frame.shape[0], frame.shape[1])
        size = resized_size(self.frame_size, self.config.test_shorter_edge, self.config.test_longer_edge)
        if self._encoded is None:
            self.frames_at_once = self.frames_at_once or _frames_at_once(self.model.device, size)
            self._encoded = FrameBuffer(self.config.test_clip_length, self.frames_at_once)
        self._waiting.append(resize(frame.permute(2, 0, 1), size))
        self._num_frames += 1
        return self._advance(last=False) if len(self._waiting) == self.frames_at_once else []

    def finish(self) -> list[VideoInstances]:
        """No frame follows: return the remaining windows.

        Raises:
            ValueError: no frame was pushed.
        """
        if not self._num_frames:
            raise ValueError("the video has no frames")
        return self._advance(last=True)

    def class_scores(self) -> Tensor:
        """Class scores (N, K) of all N tracks over the windows so far; row = track id."""
        if self._sums is None:
            return torch.zeros(0, self.config.num_classes)
        return video_scores(self._sums)

    @torch.inference_mode()
    def _advance(self, last: bool) -> list[VideoInstances]:
        results = []
        c = self.config
        with evaluating(self.model):
            if self._waiting:
                new = encode_frames(self.model, torch.stack(self._waiting), self._num_frames - len(self._waiting))
                self._encoded.append(new, self._next_clip)
                self._waiting.clear()
            while self._next_clip + c.test_clip_length <= self._num_frames:
                results += self._run_clip(self._next_clip, self._next_clip + c.test_clip_length)
            # The last clip is the first to reach past the end; it is cut there.
            if last and self._next_clip < self._num_frames:
                results += self._run_clip(self._next_clip, self._num_frames)
        if last:
            self._encoded = None
            results.append(self._take_window(last=True))
        return results

    def _run_clip(self, start: int, end: int) -> list[VideoInstances]:
        """Decode, filter and track frames [start, end); returns the window before, if this clip begins a new one."""
        results = []
        while start >= self.tracker.window_start + self.config.window_length:
            results.append(self._take_window(last=False))
        clip = self._encoded.clip(start, end)
        queries, prediction = self.model.decode(clip.queries, clip.values, clip.spatial_shapes)
        detections = filter_clip(
            prediction.class_logits[0].sigmoid(),
            prediction.mask_coefficients[0],
            prediction.embeddings[0],
            clip.mask_features[0],
            score_threshold=self.config.score_threshold,
            max_detections=10 * self.config.detections_per_image,
        )
        ids = self.tracker.update(range(start, end), *detections)
        if self.on_frame is not None:
            self._show(start, queries.coords[0], clip, prediction.embeddings[0], detections, ids)
        self._next_clip = start + self.config.clip_stride
        return results

    def _take_window(self, last: bool) -> VideoInstances:
        window = self.tracker.take_window(last)
        self._sums = add_window(self._sums, window.class_scores)
        class_scores = self.class_scores()
        rows = self.choose(class_scores) if self.choose is not None and (last or self.choose_early) else None
        wanted = torch.ones(len(window.track_ids), dtype=torch.bool)
        if rows is not None:
            wanted = torch.isin(window.track_ids, torch.as_tensor(rows["track_ids"]))
        tracks = window.track_ids[wanted]
        scores, labels = class_scores[tracks].max(-1)
        size = self.output_size or self.frame_size
        resized = resized_size(self.frame_size, self.config.test_shorter_edge, self.config.test_longer_edge)
        masks = window_masks(window.mask_logits[wanted], resized, size)
        result = VideoInstances.from_masks(
            scores.cpu().double(),
            labels.cpu(),
            tracks,
            (mask.cpu().numpy() for mask in chain.from_iterable(masks)),
            size=size,
            frames=window.mask_logits.shape[1],
            first_frame=window.first_frame,
            categories=self.config.categories,
            category_ids=self.config.label_ids,
        )
        if rows is None:
            return result
        seen = np.isin(rows["track_ids"], result.track_ids)
        return VideoInstances.concatenate([result], **{name: values[seen] for name, values in rows.items()})

    def _show(
        self, start: int, coords: Tensor, clip: EncodedFrames, queries: Tensor, found: ClipDetections, ids: Tensor
    ) -> None:
        """Report the frames up to the clip's centre, and further where no later clip has them."""
        length = len(coords)
        cut = length < self.config.test_clip_length
        shown = length if cut else max((length - 1) // 2 + 1, self.config.clip_stride)
        similarity = F.normalize(queries, dim=1) @ F.normalize(found.embeddings, dim=1).T  # (Q, D)
        best, which = similarity.max(1) if len(ids) else (queries.new_zeros(len(queries)), None)
        tracks = torch.full((len(queries),), -1, device=queries.device)
        if which is not None:
            tracks = torch.where(best >= DUPLICATE_SIMILARITY, ids[which], tracks)
        scale = coords.new_tensor(clip.padded_size[::-1]) / coords.new_tensor(clip.size[::-1])
        for t in range(self._viewed - start, shown):
            h, w = (-(-edge // 8) for edge in clip.size)
            saliency = coords.new_zeros(h, w)
            if clip.queries.activation is not None:
                saliency = clip.queries.activation[0, t, :, :h, :w].float().sigmoid().amax(0)
            points = (coords[t] * scale).cpu().numpy()
            self.on_frame(FrameView(start + t, points, tracks.cpu().numpy(), saliency.cpu().numpy()))
            self._viewed = start + t + 1


def stream(
    model: MDQE,
    frames: Iterable[np.ndarray | Tensor],
    *,
    score_threshold: float = 0.3,
    multi_label: bool = False,
    output_size: tuple[int, int] | None = None,
) -> Iterator[VideoInstances]:
    """Results window by window; see `MDQE.stream`."""
    _check_threshold(score_threshold)
    choose = partial(_select, score_threshold=score_threshold, multi_label=multi_label)
    yield from _windows(VideoSession(model, output_size=output_size, choose=choose), frames)


def segment(
    model: MDQE,
    frames: Iterable[np.ndarray | Tensor],
    *,
    score_threshold: float = 0.3,
    multi_label: bool = False,
    output_size: tuple[int, int] | None = None,
    **session_options: Any,
) -> VideoInstances:
    """The instances of a whole video; see `MDQE.segment`."""
    _check_threshold(score_threshold)
    choose = partial(_select, score_threshold=score_threshold, multi_label=multi_label)
    session = VideoSession(model, output_size=output_size, choose=choose, choose_early=False, **session_options)
    windows = list(_windows(session, frames))
    return VideoInstances.concatenate(windows, **choose(session.class_scores()))


def _frames_at_once(device: torch.device, size: tuple[int, int]) -> int:
    """How many frames of a size to encode together: on a CPU no more than its cache and glibc's heap can hold.

    glibc gives blocks of 32 MiB and more back to the system when they are freed; to get them anew, page by page, takes
    longer than to fill them.
    """
    return 16 if device.type != "cpu" else min(max(CACHED_PIXELS // (size[0] * size[1]), 1), 4)


def _windows(session: VideoSession, frames: Iterable[np.ndarray | Tensor]) -> Iterator[VideoInstances]:
    for frame in frames:
        yield from session.push(frame)
    yield from session.finish()


def _select(class_scores: Tensor, score_threshold: float, multi_label: bool) -> dict[str, np.ndarray]:
    """Rows of a result, best first: scores, labels and track_ids (N,)."""
    if multi_label:
        scores, tracks, labels = benchmark_pairs(class_scores)
    else:
        scores, labels = class_scores.max(1) if len(class_scores) else (class_scores.sum(1), class_scores.sum(1).long())
        tracks = scores.argsort(descending=True, stable=True)
        tracks = tracks[scores[tracks] >= score_threshold]
        scores, labels = scores[tracks], labels[tracks]
    columns = {"scores": scores.double(), "labels": labels, "track_ids": tracks}
    return {name: values.cpu().numpy() for name, values in columns.items()}


def _check_threshold(score_threshold: float) -> None:
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold is {score_threshold}, expected a number from 0 to 1")


@contextmanager
def evaluating(model: MDQE) -> Iterator[None]:
    """The model in evaluation mode, and afterwards each of its modules as it was."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
