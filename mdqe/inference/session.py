"""A video under way: frames in, one by one, results out as soon as they are final (paper Sec. 3.5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdqe.errors import InputError
from mdqe.inference.frame_buffer import FrameBuffer, encode_frames
from mdqe.inference.postprocess import filter_clip
from mdqe.inference.tracker import ClipTracker, WindowTracks
from mdqe.inference.views import FrameView, frame_views
from mdqe.inference.windows import ScoreSums, add_window, select, video_scores, window_masks
from mdqe.modeling.network import Network, evaluation_mode
from mdqe.modeling.preprocess import as_frame, resize, resized_size
from mdqe.results.instances import VideoInstances

CACHED_PIXELS = 2**18  # of frames encoded together on a CPU: 32 MiB hold their widest activations


class VideoSession:
    """The state of one video under way; `MDQE.start` makes one.

    A frame is final when no clip to come sees it: with clips of T frames at every frame, T − 1 frames later. Its masks
    and track ids do not change any more. Scores and labels are those so far, so they may differ in later results.

    Args:
        model: an `MDQE`; its weights must stay as they are while the session lasts.
        score_threshold: least score, so far, of an instance in a result.
        multi_label: the benchmark protocol instead: every (track, class) pair above 0.05, at least the 10 best.
        output_size: (height, width) of the masks; None: that of the frames.
        by_window: results come in whole windows of the configured length, each with the scores up to its end, instead
            of as soon as a frame is final.
        frames_at_once: frames that are encoded together. One is the least delay, more is faster on a GPU. None: 16 on a
            GPU; on a CPU 1, or up to 4 small ones.
        keep_all: results before the last hold every track, for a caller that selects when all scores are known.
        on_frame: called with a `FrameView` of every frame, in order.

    Holds the last few frames, encoded and as they came, the tracker's sums of the frames that are not final and, of the
    whole video, per-track class scores and embeddings.

    Attributes:
        frame_size: (height, width) of the frames; None before the first.
        num_frames: frames pushed so far.

    Raises:
        ValueError: a threshold outside [0, 1], a size or a number that is none.
    """

    def __init__(
        self,
        model: Network,
        *,
        score_threshold: float = 0.3,
        multi_label: bool = False,
        output_size: tuple[int, int] | None = None,
        by_window: bool = False,
        frames_at_once: int | None = 1,
        keep_all: bool = False,
        on_frame: Callable[[FrameView], None] | None = None,
    ) -> None:
        if not 0 <= score_threshold <= 1:
            raise InputError(f"score_threshold is {score_threshold}, expected a number from 0 to 1")
        if output_size is not None and (len(output_size) != 2 or min(output_size) < 1):
            raise InputError(f"output_size is {output_size}, expected (height, width) in pixels")
        if frames_at_once is not None and frames_at_once < 1:
            raise InputError(f"frames_at_once is {frames_at_once}, expected at least 1")
        c = self.config = model.config
        self.model = model
        self.score_threshold, self.multi_label, self.keep_all = score_threshold, multi_label, keep_all
        self.output_size = output_size
        self.by_window = by_window
        self.frames_at_once = frames_at_once
        self.on_frame = on_frame
        clips = (c.test_clip_length, c.clip_stride, c.window_length)
        self.tracker = ClipTracker(*clips, c.score_threshold, c.iou_weight, c.similarity_weight)
        self.frame_size: tuple[int, int] | None = None
        self.num_frames = 0
        self._frames: deque[Tensor] = deque()  # the last ones, (3, H, W) resized, whole groups of frames_at_once
        self._num_encoded = 0
        self._encoded: FrameBuffer | None = None
        self._next_clip = 0
        self._sums: ScoreSums | None = None
        self._viewed = 0
        self._ended = False

    def push(self, frame: np.ndarray | Tensor) -> list[VideoInstances]:
        """Take the next frame, (H, W, 3) uint8 RGB; return what became final, often one result, at first none.

        The frame is copied where it is needed longer: its array may be used for the next one.

        Raises:
            ValueError: a frame of another type, shape, or size than the first one; the session is then as it was. Or
                the session has ended.
        """
        self._check_open()
        frame = as_frame(frame, self.num_frames, self.frame_size)
        if self.frame_size is None:
            self._begin((frame.shape[0], frame.shape[1]))
        self._frames.append(resize(frame.permute(2, 0, 1), self._resized).clone())  # (3, H, W)
        self.num_frames += 1
        return self._advance() if self.num_frames - self._num_encoded >= self._group else []

    def flush(self) -> list[VideoInstances]:
        """No frame follows: return the remaining results. It ends the session.

        Raises:
            ValueError: no frame was pushed, or the session has ended.
        """
        self._check_open()
        if not self.num_frames:
            raise InputError("the video has no frames")
        results = self._advance(last=True)
        self._ended, self._encoded = True, None
        self._frames.clear()
        return results

    def class_scores(self) -> Tensor:
        """Class scores (N, K) of all N tracks over the windows that ended so far; row = track id."""
        if self._sums is None:
            return torch.zeros(0, self.config.num_classes)
        return video_scores(self._sums)

    def save(self, path: str | Path) -> None:
        """Write the state to a safetensors file, whole or not at all; `MDQE.resume` goes on from it.

        The file holds the last frames (small, as they came), the sums of the tracker, the options, and a digest of the
        model's weights; no weights, no features.

        Raises:
            ValueError: the session has ended.
            OSError: the file cannot be written.
        """
        from mdqe.inference.session_file import save_session

        self._check_open()
        save_session(self, path)

    def _check_open(self) -> None:
        if self._ended:
            raise InputError("the session has ended with flush(): start another for the next video")

    def _begin(self, size: tuple[int, int]) -> None:
        """Settle what follows from the frames' (height, width)."""
        self.frame_size = size
        self._resized = resized_size(size, self.config.test_shorter_edge, self.config.test_longer_edge)
        self.frames_at_once = self.frames_at_once or _frames_at_once(self.model.device, self._resized)
        self._encoded = FrameBuffer(self.config.test_clip_length, self.frames_at_once)

    @property
    def _group(self) -> int:
        """Frames that are encoded together; settled by the first frame."""
        assert self.frames_at_once is not None
        return self.frames_at_once

    @property
    def _buffer(self) -> FrameBuffer:
        """The encoded frames; there from the first frame on."""
        assert self._encoded is not None
        return self._encoded

    @torch.inference_mode()
    def _advance(self, last: bool = False) -> list[VideoInstances]:
        """Encode the groups of frames that are full (at last also the others) and run the clips that they complete."""
        results = []
        length = self.config.test_clip_length
        with evaluation_mode(self.model):
            while (waiting := self.num_frames - self._num_encoded) >= (1 if last else self._group):
                self._encode(min(waiting, self._group))
                results += self._take_final()
                while self._next_clip + length <= self._num_encoded:
                    self._run_clip(self._next_clip, self._next_clip + length)
                    results += self._take_final()
            # The last clip is the first to reach past the end; it is cut there.
            if last and self._next_clip < self.num_frames:
                self._run_clip(self._next_clip, self.num_frames)
            if last:
                results += self._take_window(last=True)
        return results

    def _encode(self, count: int) -> None:
        kept = self._num_encoded - (self.num_frames - len(self._frames))  # encoded frames among those held
        new = torch.stack(list(self._frames)[kept : kept + count])  # (count, 3, H, W)
        self._buffer.append(encode_frames(self.model, new, self._num_encoded), self._next_clip)
        self._num_encoded += count
        self._forget_frames()

    def _forget_frames(self) -> None:
        """Drop the frames that no clip to come sees, in whole groups: as such a resumed session encodes them again."""
        group = self.frames_at_once or 1
        needed = self._next_clip // group * group
        while self.num_frames - len(self._frames) < needed:
            self._frames.popleft()

    def _run_clip(self, start: int, end: int) -> None:
        """Decode, filter and track frames [start, end)."""
        clip = self._buffer.clip(start, end)
        queries, prediction = self.model.decode(clip.queries, clip.values, clip.spatial_shapes)
        embeddings = prediction.embeddings[0]
        detections = filter_clip(
            prediction.class_logits[0].sigmoid(),
            prediction.mask_coefficients[0],
            embeddings,
            clip.mask_features[0],
            score_threshold=self.config.score_threshold,
            max_detections=10 * self.config.detections_per_image,
        )
        ids = self.tracker.update(range(start, end), *detections)
        if self.on_frame is not None:
            # Up to the clip's centre, and further where no later clip has the frames.
            cut = end - start < self.config.test_clip_length
            shown = end if cut else start + max((end - start - 1) // 2 + 1, self.config.clip_stride)
            for view in frame_views(clip, range(self._viewed, shown), queries.coords[0], embeddings, detections, ids):
                self.on_frame(view)
                self._viewed = view.frame + 1
        self._next_clip = start + self.config.clip_stride

    def _take_final(self) -> list[VideoInstances]:
        """Results of the frames before the next clip, and of a window that ends there if another is sure to come."""
        results = []
        window_length = self.config.window_length
        while self.tracker.window_start + window_length <= self._next_clip < self.num_frames:
            results += self._take_window(last=False)
        if not self.by_window and self.tracker.next_frame < self._next_clip:
            end = min(self._next_clip, self.tracker.window_start + window_length)
            frames = self.tracker.take_frames(end)
            results += self._result(frames, add_window(self._sums, frames.class_scores), select_all=self.keep_all)
        return results

    def _take_window(self, last: bool) -> list[VideoInstances]:
        window = self.tracker.take_window(last)
        self._sums = add_window(self._sums, window.class_scores)
        return self._result(window, self._sums, select_all=self.keep_all and not last)

    def _result(self, window: WindowTracks, sums: ScoreSums, select_all: bool) -> list[VideoInstances]:
        """The frames' result, if there are any: the tracks seen in them that pass by the scores so far."""
        frames = window.mask_logits.shape[1]
        if not frames:
            return []
        class_scores = video_scores(sums)
        chosen = select(class_scores, 0.0 if select_all else self.score_threshold, self.multi_label and not select_all)
        wanted = torch.isin(window.track_ids, chosen.track_ids)
        tracks = window.track_ids[wanted]
        scores, labels = class_scores[tracks].max(-1)
        size = self.output_size or self.frame_size
        assert size is not None  # known from the first frame on
        masks = window_masks(window.mask_logits[wanted], self._resized, size)
        result = VideoInstances.from_masks(
            scores.cpu().double(),
            labels.cpu(),
            tracks,
            (mask.cpu().numpy() for mask in chain.from_iterable(masks)),
            size=size,
            frames=frames,
            first_frame=window.first_frame,
            categories=self.config.categories,
            category_ids=self.config.label_ids,
        )
        result = result[result.present.any(axis=1)]
        return [VideoInstances.concatenate([result], **chosen.only(result.track_ids)._asdict())]


def stream(
    model: Network,
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
    model: Network,
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


def _frames_at_once(device: torch.device, size: tuple[int, int]) -> int:
    """How many frames of a size to encode together: on a CPU no more than its cache and glibc's heap can hold.

    glibc gives blocks of 32 MiB and more back to the system when they are freed; to get them anew, page by page, takes
    longer than to fill them.
    """
    return 16 if device.type != "cpu" else min(max(CACHED_PIXELS // (size[0] * size[1]), 1), 4)
