"""Near-online tracking: detections of clips in, track ids and results of windows out (paper Sec. 3.4, Fig. 4).

Clips overlap and arrive in order. The detections of each clip are matched with the tracks by the overlap of masks in
shared frames and by the similarity of query embeddings. For each track in a frame, the tracker keeps only the sum and
the number of its mask logits. Memory therefore grows with the tracks of a window, not with its clips or the length of
the video. The tracker does not depend on the model: it works with any clip-level segmenter, with or without embeddings.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import index
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mdqe.errors import InputError
from mdqe.inference.association import match, match_look_alikes, score_clip
from mdqe.inference.memory import TrackMemory
from mdqe.inference.saved_state import SavedTensors
from mdqe.ops.reference import at_least_float32, widen

_NUMBERS = ("window_start", "next_frame", "last_clip_start", "frames_end")
"""Attributes in `ClipTracker.state_dict`, in addition to `ended`."""


class WindowTracks(NamedTuple):
    """Tracks of a window of the video, or of some frames of it.

    first_frame: index of the first of these frames.
    class_scores: (N, K) of all tracks so far; 0 for a track that was not observed in the window.
    track_ids: (M,) int64 on the CPU, ascending: the tracks observed in any of these frames.
    mask_logits: (M, frames, h, w), averages over the clips; 0 in frames where the track was not observed.
    """

    first_frame: int
    class_scores: Tensor
    track_ids: Tensor
    mask_logits: Tensor


class ClipTracker:
    """Assigns track ids that persist over a video of any length to the detections of overlapping clips.

    Output windows are frames [0, W), [W, 2W), … A clip belongs to the window of its first frame and may reach past the
    end of that window. Call `flush` (or `take_window`) before the first clip of a new window and, with last=True, after
    the last clip.

    Args:
        test_clip_length: number of frames T of a clip; the last clip of a video may be shorter.
        clip_stride: number of frames from the start of one clip to the start of the next.
        window_length: number of frames W of an output window, at least `clip_stride`.
        score_threshold: score threshold of the detector. A detection starts a track if its largest class score is above
            twice this value. As long as there are no tracks, every detection starts one.
        iou_weight, similarity_weight: weights β1, β2 of mask IoU and embedding similarity in the score (Eq. 7). Without
            embeddings, the IoU alone decides.
        memory_frames, short_memory_frames: embeddings are compared with the tracks observed in the last so many frames,
            and once more with those of the short memory, at least T, alone. The paper has one length, T_mem = 10 (Sec.
            3.4, Table 1d); the released code has 15 and 5.

    Tensors may be on any device and of any floating-point type, the same for all clips. Sums have that type, or float32
    for half precision.

    Attributes:
        window_start: index of the first frame of the current window.
        next_frame: index of the first frame that was not taken yet: `window_start`, unless `take_frames` took some.
    """

    def __init__(
        self,
        test_clip_length: int = 4,
        clip_stride: int = 1,
        window_length: int = 30,
        score_threshold: float = 0.1,
        iou_weight: float = 1.0,
        similarity_weight: float = 1.0,
        memory_frames: int = 15,
        short_memory_frames: int = 5,
    ) -> None:
        frames = {"test_clip_length": test_clip_length, "clip_stride": clip_stride, "window_length": window_length}
        frames |= {"memory_frames": memory_frames, "short_memory_frames": short_memory_frames}
        for name, number in frames.items():
            if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 1:
                raise ValueError(f"{name} must be a whole number, at least 1, got {number!r}")
        if window_length < clip_stride:
            raise ValueError(f"window_length must be at least the clip_stride of {clip_stride}, got {window_length}")
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must lie in [0, 1], got {score_threshold}")
        if not (0 <= iou_weight < math.inf and 0 <= similarity_weight < math.inf):
            raise ValueError(f"weights must be finite and not negative, got {iou_weight=}, {similarity_weight=}")
        self.test_clip_length, self.clip_stride, self.window_length = test_clip_length, clip_stride, window_length
        self.score_threshold = score_threshold
        self.iou_weight, self.similarity_weight = iou_weight, similarity_weight
        self.memory_frames, self.short_memory_frames = memory_frames, short_memory_frames
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next clip is the first of a new video."""
        self._memory: TrackMemory | None = None  # created at the first clip, which has sizes, type and device
        self.window_start = self.next_frame = 0
        self.last_clip_start = -1
        self.frames_end = 0  # one past the last frame of any clip
        self.ended = False

    @property
    def num_tracks(self) -> int:
        """Number N of tracks so far; their ids are 0 … N-1, in order of first appearance."""
        return len(self._memory.last_seen) if self._memory else 0

    @property
    def num_clips(self) -> int:
        """Number of clips so far."""
        return self._memory.clips if self._memory else 0

    @property
    def formats(self) -> tuple[Tensor, ...]:
        """Empty class scores (0, K), masks (0, h, w) and embeddings (0, E) as in the first clip; () before it."""
        return self._memory.formats if self._memory else ()

    def observed_tracks(self) -> Tensor:
        """Ids (M,) int64 on the CPU, ascending, of the tracks observed in the current window or carried into it."""
        return torch.from_numpy(self._memory.masks.observed() if self._memory else np.zeros(0, np.int64))

    @property
    def embeddings(self) -> Tensor | None:
        """Embeddings (N, E) of the tracks for matching, averaged over recent clips; None before the first clip."""
        return self._memory.embeddings if self._memory else None

    @property
    def _recent_clips(self) -> int:
        return (self.test_clip_length - 1) // self.clip_stride

    @property
    def _max_frames(self) -> int:
        return self.window_length + self.test_clip_length - 1

    @torch.no_grad()
    def update(
        self, frame_indices: Sequence[int], class_scores: Tensor, mask_logits: Tensor, embeddings: Tensor | None = None
    ) -> Tensor:
        """Match the D detections of a clip with the tracks, start new tracks and remember the clip.

        A detection whose embedding equals that of a track that is not in the frames of the clip continues this track
        and starts none, however many tracks have equal embeddings.

        Args:
            frame_indices: indices of the frames in the video, ascending, at most T; the first one is in the current
                window and after the first frame of the previous clip.
            class_scores: (D, K), probabilities.
            mask_logits: (D, len(frame_indices), h, w); positive values are foreground.
            embeddings: (D, E); None, or E = 0, if the segmenter has none. The masks of overlapping clips then decide.

        Returns:
            Track ids (D,) int64 on the device of `class_scores`; -1 for dropped detections.

        Raises:
            TypeError, ValueError: no tensors, wrong shapes, non-finite values, class scores outside [0, 1], or frames
                that are no whole numbers, out of order or outside the window. The state of the tracker does not change.
        """
        frames = [index(frame) for frame in frame_indices]  # "'float' object cannot be interpreted as an integer"
        embeddings = class_scores[..., :0] if embeddings is None else embeddings
        self._check_frames(frames)
        _check_clip(len(frames), class_scores, mask_logits, embeddings, self.formats)
        device = class_scores.device
        class_scores, mask_logits, embeddings = map(widen, (class_scores, mask_logits, embeddings))
        memory = self._memory or TrackMemory(
            class_scores, mask_logits, embeddings, self._recent_clips, self._max_frames
        )
        with torch.autocast(device.type, enabled=False):  # sums of thousands of pixels need full precision
            # 1. Score: mask IoU and embedding similarity of every track and detection, in one transfer to the host.
            memories = self.memory_frames, max(self.test_clip_length, self.short_memory_frames)
            limits = (length // self.clip_stride for length in memories)
            scores = score_clip(memory, frames, class_scores, mask_logits, embeddings, *limits)
            # 2. Assign: the best one-to-one matching of their weighted sum (Eq. 7).
            similarity_weight = self.similarity_weight if embeddings.shape[1] else 0.0
            weights = {"iou_weight": self.iou_weight, "similarity_weight": similarity_weight}
            rows, columns, repeats = match(scores.iou, scores.similarity, **weights)
            ids = np.full(len(scores.best), -1)
            ids[columns] = scores.tracks[rows]
            # 3. Start tracks: unmatched detections with a high score that repeat no track; while there is none, all.
            new = (ids < 0) & ~repeats & (scores.best > 2 * self.score_threshold) if self.num_tracks else ids < 0
            if similarity_weight and new.any():
                absent = scores.tracks[~scores.seen & ~np.isin(scores.tracks, ids)]
                places = [torch.from_numpy(x).to(device) for x in (absent, np.flatnonzero(new))]
                rows, columns = match_look_alikes(memory.embeddings[places[0]], embeddings[places[1]])
                ids[np.flatnonzero(new)[columns]] = absent[rows]
                new &= ids < 0
            ids[new] = self.num_tracks + np.arange(new.sum())
            # 4. Remember: add the clip to the sums of its tracks.
            observations: tuple[Tensor, ...] = (class_scores, mask_logits, embeddings)
            if (ids < 0).any():
                kept = torch.from_numpy(np.flatnonzero(ids >= 0)).to(device)
                observations = tuple(x.index_select(0, kept) for x in observations)
            memory.remember(frames, ids[ids >= 0], *observations)
        self._memory = memory
        self.last_clip_start, self.frames_end = frames[0], max(self.frames_end, frames[-1] + 1)
        return torch.from_numpy(ids).to(device)

    def flush(self, last: bool = False) -> tuple[Tensor, Tensor]:
        """End the window: return class scores (N, K) and averaged mask logits (N, frames, h, w) of all tracks so far.

        As `take_window`, with zeros for every track that was not observed in the window.
        """
        _, class_scores, ids, observed = self.take_window(last)
        mask_logits = observed.new_zeros(len(class_scores), *observed.shape[1:])
        mask_logits[ids] = observed
        return class_scores, mask_logits

    @torch.no_grad()
    def take_window(self, last: bool = False) -> WindowTracks:
        """End the window and carry the frames past its end into the next window.

        Args:
            last: no clip follows. The window then ends at the last frame of any clip, before or after W frames.

        Raises:
            ValueError: no clip was given yet, or the last window was already taken.
        """
        memory = self._open_memory()
        start = self.next_frame
        end = max(self.frames_end, start) if last else self.window_start + self.window_length
        window = WindowTracks(start, *memory.take(start, end))
        self.ended, self.next_frame = last, end
        if not last:
            memory.carry_over()
            self.window_start = end
        return window

    @torch.no_grad()
    def take_frames(self, end: int) -> WindowTracks:
        """Take the frames of the window before `end` early. No later clip may begin before `end`.

        The masks of these frames are final. The class scores are averages over the clips of the window so far.
        `take_window` then returns the other frames of the window.

        Raises:
            ValueError: no clip was given yet, the last window was already taken, or `end` is outside the frames of the
                window that were not taken yet.
        """
        memory = self._open_memory()
        start, limit = self.next_frame, self.window_start + self.window_length
        if not start <= end <= limit:
            raise ValueError(f"end is {end}, expected a frame from {start} to {limit}, the end of the window")
        self.next_frame = end
        return WindowTracks(start, *memory.take(start, end))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the tracker in the video by name, for `load_state_dict`, without its arguments.

        Floating-point tensors are on the device of the clips, integer tensors on the CPU.
        """
        state = {name: torch.tensor(getattr(self, name)) for name in (*_NUMBERS, "ended")}
        memory = {} if self._memory is None else self._memory.state_dict()
        return state | {f"memory.{name}": tensor for name, tensor in memory.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the state of another tracker with the same arguments; later results are equal to the bit.

        Raises:
            InputError: a tensor is missing, unknown or does not fit the others; names it. The tracker does not change.
        """
        self.restore(SavedTensors(state))

    def restore(self, saved: SavedTensors) -> None:
        """`load_state_dict` of all tensors in `saved`."""
        ended = bool(saved.take("ended", (torch.bool,)))
        position = {name: saved.integer(name, -1 if name == "last_clip_start" else 0) for name in _NUMBERS}
        entries = saved.group("memory.")
        limits = (self._recent_clips, self._max_frames, position["next_frame"])
        memory = TrackMemory.from_state(entries, *limits) if entries.names else None
        saved.finish()
        start, end = position["window_start"], position["frames_end"]
        covered = memory.masks.covered if memory else []  # clips without detections cover frames without tracks
        valid = {
            "window_start": start % self.window_length == 0,
            "next_frame": start <= position["next_frame"] <= max(start + self.window_length, end * ended),
            "last_clip_start": position["last_clip_start"] < end if memory else position["last_clip_start"] == -1,
            "frames_end": max(covered, default=-1) < end <= start + self._max_frames if memory else end == 0,
        }
        if False in valid.values() or min(covered, default=end) < position["next_frame"]:
            name = next((name for name, is_valid in valid.items() if not is_valid), "next_frame")
            raise InputError(
                f"the tensor {saved.prefix + name!r} is {position[name]}, which does not fit the other tensors"
            )
        self._memory, self.ended = memory, ended
        vars(self).update(position)

    def _open_memory(self) -> TrackMemory:
        if self._memory is None or self.ended:
            reason = "the last one was already taken" if self.ended else "no clip was given yet"
            raise ValueError(f"no window to end: {reason}")
        return self._memory

    def _check_frames(self, frames: list[int]) -> None:
        start, end = self.next_frame, self.window_start + self.window_length
        if self.ended:
            raise ValueError("the last window was taken: call reset() before the first clip of another video")
        if not 1 <= len(frames) <= self.test_clip_length:
            raise ValueError(f"a clip has 1 to test_clip_length={self.test_clip_length} frames, got {len(frames)}")
        if any(a >= b for a, b in pairwise(frames)):
            raise ValueError(f"the frames of a clip must ascend, got {frames}")
        if frames[0] <= self.last_clip_start:
            raise ValueError(
                f"clips must come in order, got one from {frames[0]} after one from {self.last_clip_start}"
            )
        if not start <= frames[0] < end:
            hint = "; flush() ends the window" if frames[0] >= end else ""
            raise ValueError(f"a clip must start in the window [{start}, {end}), got frame {frames[0]}{hint}")


def _check_clip(
    frames: int, class_scores: Tensor, mask_logits: Tensor, embeddings: Tensor, formats: Sequence[Tensor]
) -> None:
    """Check that the detections of a clip of `frames` frames fit each other and the previous clips.

    Args:
        formats: empty class scores (0, K), masks (0, h, w) and embeddings (0, E) in the format of the first clip; () at
            the first clip.

    Raises:
        ValueError: wrong shapes, or another type, size or device than in the first clip.
    """
    given = (
        ("class_scores", "(D, K)", class_scores),
        ("mask_logits", "(D, T, h, w)", mask_logits),
        ("embeddings", "(D, E)", embeddings),
    )
    number, device = len(class_scores), class_scores.device
    for name, axes, x in given:
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor {axes}, got {type(x).__name__}")
        empty = 0 in x.shape[1:] and name != "embeddings"
        if x.dim() != axes.count(",") + 1 or not x.is_floating_point() or empty:
            raise ValueError(f"{name} must be {axes} floating point, got {tuple(x.shape)} {x.dtype}")
        if x.shape[0] != number or x.device != device:
            raise ValueError(
                f"{name} must have D and device of class_scores, {number} on {device}, got {len(x)} on {x.device}"
            )
    if mask_logits.shape[1] != frames:
        raise ValueError(f"mask_logits must have the {frames} frames of frame_indices, got {mask_logits.shape[1]}")
    for (name, _, x), known in zip(given, formats, strict=False):
        size, wanted = x.shape[1 - known.dim() :], known.shape[1:]
        if size != wanted or at_least_float32(x.dtype) != known.dtype or x.device != known.device:
            raise ValueError(
                f"{name} must stay {tuple(wanted)} {known.dtype} on {known.device} within a video, "
                f"got {tuple(size)} {x.dtype} on {x.device}"
            )
