"""Near-online tracking: clip detections in, identities and window results out.

Clips overlap and arrive in order. Each is matched against the tracks by the overlap of masks in the frames they share
and by the similarity of query embeddings (the paper's near-online inference). Per frame only the sum and the number of
the mask logits of the tracks seen there are kept, so memory grows with the tracks of a window, not with its clips or
the length of the video. The tracker knows nothing of the model: any clip-level segmenter with embeddings can use it.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from mdqe.inference.association import match, memory_similarity, pooled_iou
from mdqe.inference.memory import TrackMemory
from mdqe.ops.reference import widen

LONG_MEMORY, SHORT_MEMORY = 15, 5  # frames: tracks seen so recently are compared by embedding; the short is at least T

# Where the tracker is in the video, and the kinds of these numbers.
_PLACE = {"window_start": int, "next_frame": int, "last_clip_start": int, "frames_end": int, "ended": bool}


class WindowTracks(NamedTuple):
    """What one window of the video holds, or some frames of it.

    first_frame: index of the first of the frames.
    class_scores: (N, K), every track so far; 0 for a track without observation in the window.
    track_ids: (M,) int64 on the CPU, ascending: the tracks with mask logits in some frame of the window.
    mask_logits: (M, frames, h, w), averages over the clips; 0 in frames where the track was not observed.
    """

    first_frame: int
    class_scores: Tensor
    track_ids: Tensor
    mask_logits: Tensor


class ClipTracker:
    """Gives the detections of overlapping clips identities that last over a video of any length.

    Output windows are frames [0, W), [W, 2W), …; a clip belongs to the window of its first frame and may reach past its
    end. Call `flush` (or `take_window`) before the first clip of a new window and, with last=True, after the last clip.

    Args:
        test_clip_length: frames T of a clip; a clip may be shorter (the last of a video often is), not longer.
        clip_stride: frames from the start of one clip to the start of the next.
        window_length: frames W of an output window, at least `clip_stride`.
        score_threshold: the detector's own threshold; a detection starts a track if its largest class score is above
            twice this value (while there is no track at all, every detection starts one).
        iou_weight, similarity_weight: weights β1, β2 of mask IoU and embedding similarity in the matching score.

    Tensors may live on any device, in any floating type, the same for all clips; sums are kept in that type, in float32
    for half precision.
    """

    def __init__(
        self,
        test_clip_length: int = 4,
        clip_stride: int = 1,
        window_length: int = 30,
        score_threshold: float = 0.1,
        iou_weight: float = 1.0,
        similarity_weight: float = 1.0,
    ) -> None:
        if test_clip_length < 1:
            raise ValueError(f"test_clip_length must be at least 1, got {test_clip_length}")
        if clip_stride < 1:
            raise ValueError(f"clip_stride must be at least 1, got {clip_stride}")
        if window_length < clip_stride:
            raise ValueError(f"window_length must be at least the clip_stride of {clip_stride}, got {window_length}")
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must lie in [0, 1], got {score_threshold}")
        if not (0 <= iou_weight < math.inf and 0 <= similarity_weight < math.inf):
            raise ValueError(f"weights must be finite and not negative, got {iou_weight=}, {similarity_weight=}")
        self.test_clip_length = test_clip_length
        self.clip_stride = clip_stride
        self.window_length = window_length
        self.score_threshold = score_threshold
        self.iou_weight = iou_weight
        self.similarity_weight = similarity_weight
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next clip is the first of a new video."""
        self._memory: TrackMemory | None = None  # until the first clip tells sizes, type and device
        self._window_start = 0
        self._next_frame = 0
        self._last_clip_start = -1
        self._frames_end = 0  # one past the last frame given
        self._ended = False

    @property
    def num_tracks(self) -> int:
        """Number N of tracks so far; their ids are 0 … N-1, in order of appearance."""
        return len(self._memory.last_seen) if self._memory else 0

    @property
    def window_start(self) -> int:
        """Index of the current window's first frame."""
        return self._window_start

    @property
    def _recent_clips(self) -> int:
        return (self.test_clip_length - 1) // self.clip_stride

    @property
    def next_frame(self) -> int:
        """Index of the first frame that was not taken yet: the window's first, unless `take_frames` took some."""
        return self._next_frame

    def observed_tracks(self) -> Tensor:
        """Ids (M,) int64 on the CPU, ascending, of the tracks seen in the current window or carried into it."""
        return self._memory.observed() if self._memory else torch.zeros(0, dtype=torch.int64)

    @property
    def embeddings(self) -> Tensor | None:
        """What each track is compared by: (N, E), an average over its last appearances; None before the first clip."""
        return self._memory.embeddings if self._memory else None

    @torch.no_grad()
    def update(
        self, frame_indices: Sequence[int], class_scores: Tensor, mask_logits: Tensor, embeddings: Tensor
    ) -> Tensor:
        """Match the D detections of a clip to the tracks, start new tracks, remember the clip.

        Args:
            frame_indices: the clip's frames in the video, ascending, at most T; the first lies in the current window
                and after the first frame of the clip before.
            class_scores: (D, K), probabilities.
            mask_logits: (D, len(frame_indices), h, w), positive is foreground.
            embeddings: (D, E).

        Returns:
            Track ids (D,) int64 on the device of `class_scores`, -1 where the detection was dropped.

        Raises:
            ValueError: misshapen or non-finite tensors; frames out of order or outside the window. The tracker is then
                as it was before the call.
        """
        frames = [int(frame) for frame in frame_indices]
        self._check_frames(frames)
        formats = self._memory.formats if self._memory else ()
        _check_clip(len(frames), class_scores, mask_logits, embeddings, formats)
        device = class_scores.device
        class_scores, mask_logits, embeddings = map(widen, (class_scores, mask_logits, embeddings))
        if self._memory is None:
            self._memory = TrackMemory(class_scores, mask_logits, embeddings, self._recent_clips)
        with torch.autocast(device.type, enabled=False):  # sums of thousands of pixels need all their digits
            ids = self._assign(frames, class_scores, mask_logits, embeddings)
            order = ids.argsort()
            order = order[ids[order] >= 0]
            self._memory.remember(frames, ids[order], class_scores[order], mask_logits[order], embeddings[order])
        self._last_clip_start, self._frames_end = frames[0], max(self._frames_end, frames[-1] + 1)
        return ids.to(device)

    def flush(self, last: bool = False) -> tuple[Tensor, Tensor]:
        """End the window: its class scores (N, K) and averaged mask logits (N, frames, h, w) of all N tracks so far.

        Like `take_window`, with a row of zeros for every track that the window did not see.
        """
        _, class_scores, ids, observed = self.take_window(last)
        mask_logits = observed.new_zeros(len(class_scores), *observed.shape[1:])
        mask_logits[ids] = observed
        return class_scores, mask_logits

    @torch.no_grad()
    def take_window(self, last: bool = False) -> WindowTracks:
        """End the window, carry what reaches past it into the next.

        Args:
            last: no clip follows. The window then extends to the last frame given, be that less or more than W frames.

        Raises:
            ValueError: no clip was given yet, or the last window was taken.
        """
        memory = self._open_memory()
        start = self._next_frame
        end = max(self._frames_end, start) if last else self._window_start + self.window_length
        window = WindowTracks(start, *memory.take(start, end))
        self._ended, self._next_frame = last, end
        if not last:
            memory.carry_over()
            self._window_start = end
        return window

    @torch.no_grad()
    def take_frames(self, end: int) -> WindowTracks:
        """Take the window's frames before `end` already now; no clip to come may begin before it.

        Their masks are final. The class scores are the averages over the window's clips so far. `take_window` then
        gives the rest of the window's frames.

        Raises:
            ValueError: no clip was given yet, the last window was taken, or `end` lies outside the window's frames that
                were not taken yet.
        """
        memory = self._open_memory()
        start, limit = self._next_frame, self._window_start + self.window_length
        if not start <= end <= limit:
            raise ValueError(f"end is {end}, expected a frame from {start} to {limit}, the end of the window")
        self._next_frame = end
        return WindowTracks(start, *memory.take(start, end))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the tracker remembers of the video, by name, for `load_state_dict`; not its arguments.

        Floating-point tensors are on the device of the clips, integers on the CPU.
        """
        state = {name: torch.tensor(getattr(self, f"_{name}")) for name in _PLACE}
        memory = {} if self._memory is None else self._memory.state_dict()
        return state | {f"memory.{name}": tensor for name, tensor in memory.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where another tracker with the same arguments was: with the same bits, given the same clips.

        Raises:
            ValueError: a tensor is missing or unknown, by name; the tracker is then as it was.
        """
        memory = {name.removeprefix("memory."): x for name, x in state.items() if name.startswith("memory.")}
        unknown = sorted(state.keys() - _PLACE - {f"memory.{name}" for name in memory})
        if unknown:
            raise ValueError(f"unknown tensors {', '.join(unknown)}")
        try:
            place = {f"_{name}": kind(state[name]) for name, kind in _PLACE.items()}
            loaded = TrackMemory.from_state(memory, self._recent_clips) if memory else None
        except KeyError as error:
            raise ValueError(f"the tensor {error} is missing") from error
        self._memory = loaded
        vars(self).update(place)

    def _open_memory(self) -> TrackMemory:
        if self._memory is None or self._ended:
            raise ValueError(
                f"no window to end: {'the last one was taken' if self._ended else 'no clip was given yet'}"
            )
        return self._memory

    def _assign(self, frames: list[int], class_scores: Tensor, mask_logits: Tensor, embeddings: Tensor) -> Tensor:
        """Track ids (D,) on the CPU of a clip's detections; new ids count on from the last, -1 where dropped."""
        number = len(class_scores)
        if self.num_tracks == 0:
            return torch.arange(number)
        ids = torch.full((number,), -1)
        if number == 0:
            return ids
        memory, stride = self._memory, self.clip_stride
        assert memory is not None  # the first clip was taken above
        shared = [(t, memory.frames[frame]) for t, frame in enumerate(frames) if memory.has_tracks(frame)]
        age = memory.clips - memory.last_seen  # (N,) clips; 0 for the tracks of the clip before
        long, short = age < LONG_MEMORY // stride, age < max(self.test_clip_length, SHORT_MEMORY) // stride
        # The tracks that can have similarity or IoU with this clip, R of them; the others score 0.
        tracks = torch.cat([(long | short).nonzero().flatten(), *(sums.ids for _, sums in shared)]).unique()
        rows, columns, repeats = match(
            pooled_iou(tracks, shared, mask_logits),
            memory_similarity(memory.embeddings[tracks], embeddings, long[tracks], short[tracks]),
            iou_weight=self.iou_weight,
            similarity_weight=self.similarity_weight,
        )
        ids[columns] = tracks[rows]
        new = (ids < 0) & ~repeats & (class_scores.amax(dim=1) > 2 * self.score_threshold).cpu()
        ids[new] = self.num_tracks + torch.arange(int(new.sum()))
        return ids

    def _check_frames(self, frames: list[int]) -> None:
        start, end = self._next_frame, self._window_start + self.window_length
        if self._ended:
            raise ValueError("the last window was taken: call reset() before the first clip of another video")
        if not 1 <= len(frames) <= self.test_clip_length:
            raise ValueError(f"a clip has 1 to test_clip_length={self.test_clip_length} frames, got {len(frames)}")
        if any(a >= b for a, b in pairwise(frames)):
            raise ValueError(f"the frames of a clip must ascend, got {frames}")
        if frames[0] <= self._last_clip_start:
            raise ValueError(
                f"clips must come in order, got one from {frames[0]} after one from {self._last_clip_start}"
            )
        if not start <= frames[0] < end:
            hint = "; flush() ends the window" if frames[0] >= end else ""
            raise ValueError(f"a clip must start in the window [{start}, {end}), got frame {frames[0]}{hint}")


def _check_clip(
    frames: int, class_scores: Tensor, mask_logits: Tensor, embeddings: Tensor, formats: Sequence[Tensor]
) -> None:
    """The detections of a clip of `frames` frames fit together, and those before them.

    Args:
        formats: class scores (0, K), masks (0, h, w) and embeddings (0, E) as the first clip had them; none for it.

    Raises:
        ValueError: misshapen or non-finite tensors, or of another type, size or device than the first clip's.
    """
    given = (
        ("class_scores", "(D, K)", class_scores),
        ("mask_logits", "(D, T, h, w)", mask_logits),
        ("embeddings", "(D, E)", embeddings),
    )
    for name, axes, x in given:
        if x.dim() != axes.count(",") + 1 or not x.is_floating_point() or 0 in x.shape[1:]:
            raise ValueError(f"{name} must be {axes} floating point, got {tuple(x.shape)} {x.dtype}")
        if (len(x), x.device) != (len(class_scores), class_scores.device):
            raise ValueError(
                f"{name} must have D and device of class_scores, "
                f"{len(class_scores)} on {class_scores.device}, got {len(x)} on {x.device}"
            )
    if mask_logits.shape[1] != frames:
        raise ValueError(f"mask_logits must have the {frames} frames of frame_indices, got {mask_logits.shape[1]}")
    for (name, _, x), known in zip(given, formats, strict=False):
        size, wanted = tuple(x.shape[1 - known.dim() :]), tuple(known.shape[1:])
        if (size, widen(x[:0]).dtype, x.device) != (wanted, known.dtype, known.device):
            raise ValueError(
                f"{name} must stay {wanted} {known.dtype} on {known.device} within a video, "
                f"got {size} {x.dtype} on {x.device}"
            )
    finite = torch.stack([torch.isfinite(x).all() for _, _, x in given]).tolist()
    if not all(finite):
        raise ValueError(f"{given[finite.index(False)][0]} must be finite, got NaN or infinity")
