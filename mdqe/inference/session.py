"""A video in progress: takes frames one by one and returns results as soon as they are final (paper Sec. 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdqe.annotations.records import is_finite
from mdqe.errors import InputError
from mdqe.inference.decode import DecodedClip, decode_clips
from mdqe.inference.frame_buffer import FrameEncoder, first_kept
from mdqe.inference.graphs import graphs_of
from mdqe.inference.postprocess import ScoreSums, rank_tracks, window_masks
from mdqe.inference.relink import Relinker
from mdqe.inference.saved_state import SavedTensors, is_whole
from mdqe.inference.session_file import OPTIONS, SessionState, read_session, write_session
from mdqe.inference.session_progress import check_progress, is_size, read_progress
from mdqe.inference.tracker import ClipTracker, WindowTracks
from mdqe.inference.views import FrameView, frame_views
from mdqe.modeling.network import Network, evaluation_mode
from mdqe.results.instances import VideoInstances

MOST_BATCHED = 1024


class VideoSession:
    """The state of one video in progress; created by `MDQE.start`.

    A frame is final when no later clip contains it. If a clip of T frames starts at every frame, this is T − 1 frames
    later. The masks and track ids of a final frame do not change any more. Scores and labels are averages over the
    frames so far, so they may change in later results.

    Args:
        model: an `MDQE`. Its weights must not change during the session.
        score_threshold: minimum score, so far, of an instance in a result.
        multi_label: use the benchmark protocol instead: every (track, class) pair above 0.05, at least the 10 best.
        output_size: (height, width) of the masks; None: the size of the frames.
        by_window: return whole windows of the configured length, each with the scores up to its end, instead of each
            frame as soon as it is final.
        encoder_batch_size: number of frames that are encoded together. 1 has the smallest delay; larger values are
            faster. At most 1024. None: 16 on a GPU; on a CPU from 1 to 16, by the number of their pixels.
        keep_all: results before the last one contain every track, for callers that select tracks by their final scores.
        on_frame: called with a `FrameView` of every frame, in order.
        on_new_ids: if the configuration has `relink`, called for every final frame, after `on_frame`, with its index
            and the new ids of its masks by their ids in the tracker, which the `FrameView` has.
        cuda_graphs: run the network as CUDA graphs, see `mdqe.inference.graphs`; no effect on other devices.

    A session keeps the last few frames and their features, the tracker's sums of the frames that are not final, and the
    class scores and embeddings of all tracks.

    Attributes:
        num_frames: number of frames pushed so far.
        frame_size: (height, width) of the frames; None before the first one.

    Raises:
        InputError: a threshold outside [0, 1], or another option with an invalid value; names it.
    """

    def __init__(
        self,
        model: Network,
        *,
        score_threshold: float = 0.3,
        multi_label: bool = False,
        output_size: tuple[int, int] | None = None,
        by_window: bool = False,
        encoder_batch_size: int | None = 1,
        keep_all: bool = False,
        on_frame: Callable[[FrameView], None] | None = None,
        on_new_ids: Callable[[int, dict[int, int]], None] | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        if not is_finite(score_threshold) or not 0 <= score_threshold <= 1:
            raise InputError(f"score_threshold is {str(score_threshold)[:40]}, expected a number from 0 to 1")
        if output_size is not None and not is_size(output_size):
            raise InputError(f"output_size is {str(output_size)[:40]}, expected (height, width) in pixels")
        if encoder_batch_size is not None and not is_whole(encoder_batch_size, 1, MOST_BATCHED):
            given = str(encoder_batch_size)[:40]
            raise InputError(f"encoder_batch_size is {given}, expected a whole number from 1 to {MOST_BATCHED}")
        for name, value in (
            ("multi_label", multi_label),
            ("by_window", by_window),
            ("keep_all", keep_all),
            ("cuda_graphs", cuda_graphs),
        ):
            if not isinstance(value, bool):
                raise InputError(f"{name} is {str(value)[:40]!r}, expected True or False")
        c = self.config = model.config
        self.model = model
        self.score_threshold, self.multi_label, self.keep_all = float(score_threshold), multi_label, keep_all
        self.output_size = None if output_size is None else (int(output_size[0]), int(output_size[1]))
        self.by_window = by_window
        self.on_frame, self.on_new_ids = on_frame, on_new_ids
        clips = (c.test_clip_length, c.clip_stride, c.window_length)
        self.tracker = ClipTracker(
            *clips, c.score_threshold, c.iou_weight, c.similarity_weight, c.memory_frames, c.short_memory_frames
        )
        self._relinker = Relinker() if c.relink else None
        self._encoder = FrameEncoder(model, encoder_batch_size or 0)
        self._graphs = self._encoder.graphs = graphs_of(model) if cuda_graphs else None
        self._scores = ScoreSums(*torch.zeros(2, 0, c.num_classes))
        self._next_clip = 0  # index of its first frame
        self._num_viewed = 0  # frames passed to on_frame
        self._ended = False

    @property
    def num_frames(self) -> int:
        """Number of frames pushed so far."""
        return self._encoder.num_frames

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """(height, width) of the frames; None before the first one."""
        return self._encoder.frame_size

    def push(self, frame: np.ndarray | Tensor) -> list[VideoInstances]:
        """Take the next frame, (H, W, 3) uint8 RGB; return the results that became final.

        This is usually one result; the first frames return none. The frame is copied, so its array may be reused. It
        may be on any device.

        Raises:
            InputError: the frame has another type or shape, or another size than the first one; the session does not
                change. Or the session has ended.
        """
        self._check_open()
        self._encoder.add(frame)
        return self._advance() if self._encoder.has_batch() else []

    def flush(self) -> list[VideoInstances]:
        """Return the remaining results after the last frame. This ends the session.

        Raises:
            InputError: no frame was pushed, or the session has ended.
        """
        self._check_open()
        if not self.num_frames:
            raise InputError("the video has no frames")
        results = self._advance(last=True)
        self._ended = True
        self._encoder.clear()
        return results

    def run(self, frames: Iterable[np.ndarray | Tensor]) -> Iterator[VideoInstances]:
        """Push every frame, then flush; yield the results."""
        source = iter(frames)
        try:
            for frame in source:
                yield from self.push(frame)
            yield from self.flush()
        finally:
            if source is not frames and hasattr(source, "close"):
                source.close()  # now, not with the traceback of an error: a thread may be reading ahead

    def class_scores(self) -> Tensor:
        """Class scores (N, K) of all N tracks over the windows that have ended; a row index is a track id."""
        return self._scores.mean_and_peak()

    def save(self, path: str | Path) -> None:
        """Write the state to a safetensors file, completely or not at all; `MDQE.resume` continues from it.

        The file contains the last frames after resizing, the sums of the tracker, the options, and a fingerprint of the
        weights of the model. It contains no weights and no features.

        Raises:
            InputError: the session has ended.
            OSError: the file cannot be written.
        """
        write_session(Path(path), self.state_dict(), self.model)

    def state_dict(self) -> SessionState:
        """Return the state of the session, with its options, for `load_state_dict`.

        Raises:
            InputError: the session has ended.
        """
        self._check_open()
        encoder = self._encoder
        encoder.drop_frames(self._next_clip)
        tensors = {f"tracker.{name}": tensor for name, tensor in self.tracker.state_dict().items()}
        if self._relinker is not None:
            tensors |= {f"relinker.{name}": tensor for name, tensor in self._relinker.state_dict().items()}
        if encoder.frames:
            tensors["frames"] = torch.stack(encoder.resized())  # (n, 3, H, W) uint8
        if self._scores.windows:
            tensors |= {"scores.total": self._scores.total, "scores.peak": self._scores.peak}
        description = {
            "options": {name: getattr(self, name) for name in OPTIONS if name != "encoder_batch_size"}
            | {"encoder_batch_size": encoder.batch_size or None},
            "counts": {
                "num_frames": encoder.num_frames,
                "num_encoded": encoder.num_encoded,
                "next_clip": self._next_clip,
                "viewed": self._num_viewed,
            },
            "frame_size": self.frame_size,
            "windows": self._scores.windows,
            "buffer_start": encoder.buffer.first,
        }
        return SessionState(tensors, description)

    def load_state_dict(self, state: SessionState) -> None:
        """Continue from the state of another session with the same options. This session must be new.

        Raises:
            InputError: an entry is missing, unknown or does not fit the others; names it.
        """
        progress = read_progress(state.description)
        # The numbers of the linker, float64, stay on the host.
        floats = {name for name, x in state.tensors.items() if x.is_floating_point()}
        moved = {name for name in floats if not name.startswith("relinker.")}
        tensors = {name: x.to(self.model.device) if name in moved else x for name, x in state.tensors.items()}
        saved = SavedTensors(tensors)
        self.tracker.restore(saved.group("tracker."))
        if progress.frame_size is not None:
            self._encoder.begin(progress.frame_size)
        check_progress(progress, self.config, self.tracker, self._encoder, self.by_window)
        if self._relinker is not None:
            self._relinker.restore(saved.group("relinker."), self.tracker.num_tracks)
            if (taken := self._relinker.num_frames) != self.tracker.next_frame:
                raise InputError(f"'relinker.linker.num_frames' is {taken}, expected {self.tracker.next_frame}")
        if progress.windows:
            total = saved.floats("scores.total", None, self.config.num_classes, like=self.tracker.embeddings)
            peak = saved.floats("scores.peak", *total.shape, like=total)
            number = (self._relinker or self.tracker).num_tracks
            if len(total) > number:
                raise InputError(f"the tensor 'scores.total' has {len(total)} rows, expected at most {number} tracks")
            self._scores = ScoreSums(total, peak, progress.windows)
        kept = progress.num_frames - first_kept(progress.next_clip, self._encoder.batch_size)
        frames = saved.take("frames", (torch.uint8,), kept, 3, *self._encoder.size) if kept else ()
        saved.finish()
        self._next_clip, self._num_viewed = progress.next_clip, progress.viewed
        self._encoder.restore(list(frames), progress.num_frames, progress.num_encoded, progress.buffer_start)

    def _check_open(self) -> None:
        if self._ended:
            raise InputError("the session has ended with flush(): start another for the next video")

    @torch.inference_mode()
    def _advance(self, last: bool = False) -> list[VideoInstances]:
        """Encode full batches, with `last` all frames, and process the clips that are complete then."""
        results = []
        length = self.config.test_clip_length
        with evaluation_mode(self.model):
            while self._encoder.has_batch(last):
                self._encoder.encode_batch(self._next_clip)
                results += self._take_final()
                starts = range(self._next_clip, self._encoder.num_encoded - length + 1, self.config.clip_stride)
                for clip in decode_clips(self.model, self._encoder.buffer.frames, starts, length, self._graphs):
                    self._track(clip)
                    results += self._take_final()
            if last and self._next_clip < self.num_frames:  # the last clip is cut at the end of the video
                starts, length = range(self._next_clip, self._next_clip + 1), self.num_frames - self._next_clip
                for clip in decode_clips(self.model, self._encoder.buffer.frames, starts, length, self._graphs):
                    self._track(clip)
            if last:
                results += self._take_window(last=True)
        return results

    def _track(self, clip: DecodedClip) -> None:
        """Match the detections of the next clip with the tracks of previous clips, and report frames."""
        ids = self.tracker.update(clip.frames, *clip.detections)  # (D,)
        # Report the frames up to the centre of the clip, and further if no later clip contains them.
        c, start, end = self.config, clip.frames.start, clip.frames.stop
        if self.on_frame is not None:
            cut = end - start < c.test_clip_length
            stop = end if cut else start + max((end - start - 1) // 2 + 1, c.clip_stride)
            frames = range(max(self._num_viewed, start), stop)
            encoded = self._encoder.buffer.frames.clip(start, end)
            for view in frame_views(encoded, frames, clip.coords, clip.embeddings, clip.detections, ids):
                self.on_frame(view)
                self._num_viewed = view.frame + 1
        self._next_clip = start + c.clip_stride

    def _take_final(self) -> list[VideoInstances]:
        """Results of the frames before the next clip, and of a window that ends there if another window follows."""
        results = []
        window_length = self.config.window_length
        while self.tracker.window_start + window_length <= self._next_clip < self.num_frames:
            results += self._take_window(last=False)
        if not self.by_window and self.tracker.next_frame < self._next_clip:
            end = min(self._next_clip, self.tracker.window_start + window_length)
            frames = self._relinked(self.tracker.take_frames(end), ends=False)
            results += self._result(frames, self._scores.add(frames.class_scores), every_track=self.keep_all)
        return results

    def _take_window(self, last: bool) -> list[VideoInstances]:
        window = self._relinked(self.tracker.take_window(last), ends=True)
        self._scores = self._scores.add(window.class_scores)
        return self._result(window, self._scores, every_track=self.keep_all and not last)

    def _relinked(self, window: WindowTracks, ends: bool) -> WindowTracks:
        if self._relinker is None:
            return window
        relinked = self._relinker.relink(window, self._encoder.size, ends)
        if self.on_new_ids is not None:
            for frame, ids in enumerate(self._relinker.new_ids, window.first_frame):
                self.on_new_ids(frame, ids)
        return relinked

    def _result(self, window: WindowTracks, scores: ScoreSums, every_track: bool) -> list[VideoInstances]:
        """The result of these frames, if any: the visible tracks that pass the threshold with their scores so far."""
        num_frames = window.mask_logits.shape[1]
        if not num_frames:
            return []
        # 1. Rank the tracks of the video.
        threshold, multi_label = (0.0, False) if every_track else (self.score_threshold, self.multi_label)
        ranked = rank_tracks(scores.mean_and_peak(), threshold, multi_label)
        # 2. Encode the masks of those that were observed in these frames, one row per track.
        selected = np.isin(window.track_ids, ranked.track_ids)
        tracks, logits = window.track_ids.numpy()[selected], window.mask_logits
        if not selected.all():
            logits = logits.index_select(0, torch.from_numpy(selected.nonzero()[0]).to(logits.device))
        size = self.output_size or self.frame_size
        assert size is not None  # known since the first frame
        result = VideoInstances.from_masks(
            np.zeros(len(tracks)),
            np.zeros(len(tracks), np.int64),
            tracks,
            window_masks(logits, self._encoder.size, size, alignment=self.config.mask_alignment),
            size=size,
            frames=num_frames,
            first_frame=window.first_frame,
            categories=self.config.categories,
            category_ids=self.config.label_ids,
        )
        # 3. Order them by rank, with score and label, without tracks that are not visible.
        result = result.rows(**ranked._asdict())
        return [result[result.present.any(axis=1)]]


def load_session(
    model: Network,
    path: str | Path,
    on_frame: Callable[[FrameView], None] | None = None,
    on_new_ids: Callable[[int, dict[int, int]], None] | None = None,
) -> VideoSession:
    """Continue a saved session; see `MDQE.resume`, and `VideoSession` for the callbacks."""
    state = read_session(Path(path), model)
    try:
        session = VideoSession(model, **state.description["options"], on_frame=on_frame, on_new_ids=on_new_ids)
        session.load_state_dict(state)
    except InputError as error:
        raise InputError(f"{path} is not a valid session: {error}") from error
    return session
