"""The tracker's memory: sums of mask logits per frame, sums of class scores per track, embeddings of the last clips.

Track ids are int64 tensors on the CPU, unique and ascending, so looking up a track needs no device synchronisation.
Tensors that outlive a call are never changed in place. Calls inside and outside `torch.inference_mode` may alternate.
"""

import math
import re
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mdqe.inference.saved_state import MOST, SavedTensors

AVERAGED_CLIPS = 3  # number of newest clips over which the embedding of a track is averaged
CLIP_WEIGHT = 0.25  # log of the weight of a clip's embeddings relative to those of the previous clip

# Names of the tensors and numbers in `TrackMemory.state_dict`, which are also names of attributes.
_TENSORS = ("last_seen", "embeddings", "class_sums", "class_counts", "carried")
_NUMBERS = ("clips", "window_clips")
_FRAME_IDS = re.compile(r"frames\.(0|[1-9][0-9]{0,15})\.ids", re.ASCII)


class FrameSums(NamedTuple):
    """Sums of the mask logits of the tracks observed in one frame; rows follow `ids`."""

    ids: Tensor  # (S,)
    sums: Tensor  # (S, h, w)
    counts: Tensor  # (S,) int64, on the CPU

    def add(self, ids: Tensor, logits: Tensor) -> "FrameSums":
        """Add one observation of each track in `ids`: logits (len(ids), h, w)."""
        union = torch.cat([self.ids, ids]).unique()
        old, new = torch.searchsorted(union, self.ids), torch.searchsorted(union, ids)
        sums, counts = self.sums.new_zeros(len(union), *self.sums.shape[1:]), torch.zeros_like(union)
        sums[old], counts[old] = self.sums, self.counts
        sums[new] += logits
        counts[new] += 1
        return FrameSums(union, sums, counts)

    def mean(self) -> Tensor:
        """(S, h, w)."""
        return self.sums / self.counts.to(self.sums)[:, None, None]

    def averaged(self) -> "FrameSums":
        """Replace the observations of each track by one observation, their mean."""
        return FrameSums(self.ids, self.mean(), torch.ones_like(self.counts))


class ClipEmbeddings(NamedTuple):
    """Embeddings of the tracks observed in one clip; rows follow `ids`."""

    ids: Tensor  # (S,)
    embeddings: Tensor  # (S, E)

    def select(self, ids: Tensor) -> "ClipEmbeddings":
        """Keep only tracks in `ids`."""
        keep = torch.isin(self.ids, ids)
        return ClipEmbeddings(self.ids[keep], self.embeddings[keep])


def weighted_mean(clips: Sequence[ClipEmbeddings]) -> ClipEmbeddings:
    """Average the embeddings of each track over the clips that contain it; later clips have larger weights."""
    ids = torch.cat([clip.ids for clip in clips]).unique()
    total = clips[-1].embeddings.new_zeros(len(ids), clips[-1].embeddings.shape[1])
    weights = torch.zeros(len(ids), dtype=torch.float64)
    for i, clip in enumerate(clips):
        rows = torch.searchsorted(ids, clip.ids)
        total[rows] += math.exp(CLIP_WEIGHT * i) * clip.embeddings
        weights[rows] += math.exp(CLIP_WEIGHT * i)
    return ClipEmbeddings(ids, total / weights.to(total)[:, None])


class TrackMemory:
    """Running sums over one window, carried from window to window.

    Args:
        class_scores (D, K), mask_logits (D, T, h, w), embeddings (D, E): of the first clip. The memory has their sizes,
            types and device.
        recent_clips: number of clips at the end of a window whose embeddings are carried into the next window.
    """

    def __init__(self, class_scores: Tensor, mask_logits: Tensor, embeddings: Tensor, recent_clips: int) -> None:
        none = torch.zeros(0, dtype=torch.int64)
        self.clips = 0  # remembered so far
        self.last_seen = none  # (N,) value of `clips` when the track was last observed
        self.embeddings = embeddings.new_zeros(0, embeddings.shape[1])  # (N, E) for matching
        self.frames: dict[int, FrameSums] = {}  # covered frames of the window and past its end
        self.class_sums = class_scores.new_zeros(0, class_scores.shape[1])  # (N, K) over the window
        self.class_counts = none  # (N,)
        self.window_clips = 0  # clips remembered in this window
        self.carried = none  # tracks that had frames in the window when it began
        self._no_masks = FrameSums(none, mask_logits.new_zeros(0, *mask_logits.shape[2:]), none)
        self._recent: deque[ClipEmbeddings] = deque(maxlen=max(AVERAGED_CLIPS, recent_clips))

    @property
    def formats(self) -> tuple[Tensor, Tensor, Tensor]:
        """Empty class scores (0, K), masks (0, h, w) and embeddings (0, E)."""
        return self.class_sums[:0], self._no_masks.sums, self.embeddings[:0]

    def remember(
        self, frames: Sequence[int], ids: Tensor, class_scores: Tensor, mask_logits: Tensor, embeddings: Tensor
    ) -> None:
        """Add a clip: one row of each tensor per track in `ids`; ids of new tracks continue from the last one."""
        number = max(len(self.last_seen), int(ids[-1]) + 1 if len(ids) else 0)
        on_device = ids.to(embeddings.device)
        self.clips += 1
        self.last_seen = _pad_rows(self.last_seen, number).index_fill(0, ids, self.clips)
        self.window_clips += 1
        self._recent.append(ClipEmbeddings(ids, embeddings))
        mean = weighted_mean(list(self._recent)[-AVERAGED_CLIPS:]).select(ids)
        self.embeddings = _pad_rows(self.embeddings, number).index_copy(0, on_device, mean.embeddings)
        self.class_sums = _pad_rows(self.class_sums, number).index_add(0, on_device, class_scores)
        self.class_counts = _pad_rows(self.class_counts, number).index_add(0, ids, torch.ones_like(ids))
        for t, frame in enumerate(frames):
            self.frames[frame] = self.frames.get(frame, self._no_masks).add(ids, mask_logits[:, t])

    def has_tracks(self, frame: int) -> bool:
        """Whether any track was observed in the frame. A clip without detections covers frames without tracks."""
        return frame in self.frames and len(self.frames[frame].ids) > 0

    def observed(self) -> Tensor:
        """Ids (M,) of the tracks observed in any frame."""
        return _observed_ids(self.frames.values())

    def take(self, start: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """Remove frames [start, end) from the memory and return them.

        Returns:
            class_scores: (N, K), averages over the window; 0 where the track was not observed.
            ids: (M,), the tracks observed in any of these frames.
            mask_logits: (M, end - start, h, w), averages; 0 where the track was not observed.
        """
        inside = {frame: self.frames.pop(frame) for frame in list(self.frames) if frame < end}
        ids = _observed_ids(inside.values())
        size = self._no_masks.sums.shape[1:]
        logits = self._no_masks.sums.new_zeros(len(ids), end - start, *size)
        for frame in list(inside):
            sums = inside.pop(frame)  # freed once copied, so that the window is never in memory twice
            logits[torch.searchsorted(ids, sums.ids), frame - start] = sums.mean()
        return self._class_means(), ids, logits

    def carry_over(self) -> None:
        """Begin a window with the remaining frames. The observations of a track become one, their average."""
        means = self._class_means()
        self.frames = {frame: sums.averaged() for frame, sums in self.frames.items()}
        recent = list(self._recent)
        if len(recent) > self.window_clips:  # the first entry is the average carried from the window before
            recent[0] = recent[0].select(self.carried)
        self._recent.clear()
        self._recent.append(weighted_mean(recent))
        self.window_clips = 0
        self.carried = self.observed()
        self.class_counts = torch.zeros_like(self.class_counts).index_fill(0, self.carried, 1)
        self.class_sums = means * self.class_counts.to(means)[:, None]

    def state_dict(self) -> dict[str, Tensor]:
        """All contents by name; numbers are tensors without axes."""
        state = {name: getattr(self, name) for name in _TENSORS}
        state |= {name: torch.tensor(getattr(self, name)) for name in _NUMBERS}
        for frame, sums in self.frames.items():
            state |= {f"frames.{frame}.{name}": tensor for name, tensor in sums._asdict().items()}
        for i, clip in enumerate(self._recent):  # "sightings" is their name in saved sessions
            state |= {f"sightings.{i}.{name}": tensor for name, tensor in clip._asdict().items()}
        return state | {"no_masks": self._no_masks.sums}

    @classmethod
    def from_state(cls, state: SavedTensors, recent_clips: int) -> "TrackMemory":
        """Create the memory that had this `state_dict`.

        Raises:
            InputError: a tensor is missing, unknown or does not fit the others; names it.
        """
        no_masks = state.floats("no_masks", 0, None, None)
        clips = state.integer("clips", 1)
        last_seen = state.integers("last_seen", 1, clips, None)
        number = len(last_seen)
        embeddings, class_sums = (state.floats(name, number, None) for name in ("embeddings", "class_sums"))
        memory = cls(class_sums, no_masks[:, None], embeddings, recent_clips)
        memory.clips, memory.window_clips = clips, state.integer("window_clips", 0, clips)
        memory.last_seen, memory.embeddings, memory.class_sums = last_seen, embeddings, class_sums
        memory.class_counts = state.integers("class_counts", 0, memory.window_clips + 1, number)
        memory.carried = state.ids("carried", number)
        for frame in sorted(int(name.split(".")[1]) for name in state.names if _FRAME_IDS.fullmatch(name)):
            ids = state.ids(f"frames.{frame}.ids", number)
            sums = state.floats(f"frames.{frame}.sums", len(ids), *no_masks.shape[1:], like=no_masks)
            memory.frames[frame] = FrameSums(ids, sums, state.integers(f"frames.{frame}.counts", 1, MOST, len(ids)))
        for i in range(memory._recent.maxlen or 0):
            if i and f"sightings.{i}.ids" not in state.names:
                break
            ids = state.ids(f"sightings.{i}.ids", number)
            rows = state.floats(f"sightings.{i}.embeddings", len(ids), embeddings.shape[1], like=embeddings)
            memory._recent.append(ClipEmbeddings(ids, rows))
        state.finish()
        return memory

    def _class_means(self) -> Tensor:
        return self.class_sums / self.class_counts.clamp(min=1).to(self.class_sums)[:, None]


def _pad_rows(x: Tensor, number: int) -> Tensor:
    """Append rows of zeros, up to `number`."""
    return torch.cat([x, x.new_zeros(number - len(x), *x.shape[1:])])


def _observed_ids(frames: Iterable[FrameSums]) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=torch.int64), *(sums.ids for sums in frames)]).unique()
