"""What the tracker remembers: sums of mask logits per frame, of class scores per track, embeddings of the last clips.

Track ids are int64 tensors on the CPU, unique and ascending, so that finding a track needs no device synchronisation.
Tensors that outlive a call are never changed in place: calls inside and outside `torch.inference_mode` may alternate.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BLENDED_CLIPS = 3  # newest clips that a track's embedding is averaged over
CLIP_WEIGHT = 0.25  # log of the weight of a clip's embeddings relative to those of the clip before


class FrameSums(NamedTuple):
    """Mask logits of the tracks observed in one frame; rows follow `ids`."""

    ids: Tensor  # (S,)
    sums: Tensor  # (S, h, w)
    counts: Tensor  # (S,) int64, on the CPU

    def add(self, ids: Tensor, logits: Tensor) -> "FrameSums":
        """With one more observation of each track of `ids`: logits (len(ids), h, w)."""
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

    def as_one(self) -> "FrameSums":
        """The average, standing as a single observation."""
        return FrameSums(self.ids, self.mean(), torch.ones_like(self.counts))


class Sighting(NamedTuple):
    """Embeddings of the tracks that one clip saw; rows follow `ids`."""

    ids: Tensor  # (S,)
    embeddings: Tensor  # (S, E)

    def of(self, ids: Tensor) -> "Sighting":
        """The part that concerns `ids`."""
        keep = torch.isin(self.ids, ids)
        return Sighting(self.ids[keep], self.embeddings[keep])


def blend(sightings: Sequence[Sighting]) -> Sighting:
    """Weighted mean of every track's embeddings over the sightings that have it, the last of them heaviest."""
    ids = torch.cat([s.ids for s in sightings]).unique()
    total = sightings[-1].embeddings.new_zeros(len(ids), sightings[-1].embeddings.shape[1])
    weights = torch.zeros(len(ids), dtype=torch.float64)
    for age, sighting in enumerate(sightings):
        rows = torch.searchsorted(ids, sighting.ids)
        total[rows] += math.exp(CLIP_WEIGHT * age) * sighting.embeddings
        weights[rows] += math.exp(CLIP_WEIGHT * age)
    return Sighting(ids, total / weights.to(total)[:, None])


class TrackMemory:
    """Running sums over one window, carried from window to window.

    Args:
        class_scores (D, K), mask_logits (D, T, h, w), embeddings (D, E): of the first clip; their sizes, types and
            device are those of the memory.
        recent_clips: how many clips before a window's end tell a track's embedding in the next.
    """

    def __init__(self, class_scores: Tensor, mask_logits: Tensor, embeddings: Tensor, recent_clips: int) -> None:
        none = torch.zeros(0, dtype=torch.int64)
        self.clips = 0  # remembered so far
        self.last_seen = none  # (N,) value of `clips` when the track was last seen
        self.embeddings = embeddings.new_zeros(0, embeddings.shape[1])  # (N, E) for matching
        self.frames: dict[int, FrameSums] = {}  # frames of the window and past its end that a clip covered
        self._no_masks = FrameSums(none, mask_logits.new_zeros(0, *mask_logits.shape[2:]), none)
        self._class_sums = class_scores.new_zeros(0, class_scores.shape[1])  # (N, K) over the window
        self._class_counts = none  # (N,)
        self._sightings: deque[Sighting] = deque(maxlen=max(BLENDED_CLIPS, recent_clips))
        self._window_clips = 0  # sightings made in this window
        self._carried = none  # tracks that came into the window with frames in it

    @property
    def formats(self) -> tuple[Tensor, Tensor, Tensor]:
        """Empty class scores (0, K), masks (0, h, w) and embeddings (0, E)."""
        return self._class_sums[:0], self._no_masks.sums, self.embeddings[:0]

    def remember(
        self, frames: Sequence[int], ids: Tensor, class_scores: Tensor, mask_logits: Tensor, embeddings: Tensor
    ) -> None:
        """Add a clip: one row of each tensor per track of `ids`, new tracks counting on from the last."""
        number = max(len(self.last_seen), int(ids[-1]) + 1 if len(ids) else 0)
        on_device = ids.to(embeddings.device)
        self.clips += 1
        self.last_seen = _grown(self.last_seen, number).index_fill(0, ids, self.clips)
        self._window_clips += 1
        self._sightings.append(Sighting(ids, embeddings))
        blended = blend(list(self._sightings)[-BLENDED_CLIPS:]).of(ids)
        self.embeddings = _grown(self.embeddings, number).index_copy(0, on_device, blended.embeddings)
        self._class_sums = _grown(self._class_sums, number).index_add(0, on_device, class_scores)
        self._class_counts = _grown(self._class_counts, number).index_add(0, ids, torch.ones_like(ids))
        for t, frame in enumerate(frames):
            self.frames[frame] = self.frames.get(frame, self._no_masks).add(ids, mask_logits[:, t])

    def has_tracks(self, frame: int) -> bool:
        """Whether some track was observed in the frame; a clip that kept nothing covers frames without one."""
        return frame in self.frames and len(self.frames[frame].ids) > 0

    def observed(self) -> Tensor:
        """Ids (M,) of the tracks that any frame has."""
        return _ids_in(self.frames.values())

    def take(self, start: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """Take frames [start, end) out of memory.

        Returns:
            class_scores: (N, K), averages over the window, 0 where the track was not observed.
            ids: (M,), the tracks that some of these frames has.
            mask_logits: (M, end - start, h, w), averages, 0 where the track was not observed.
        """
        inside = {frame: self.frames.pop(frame) for frame in list(self.frames) if frame < end}
        ids = _ids_in(inside.values())
        size = self._no_masks.sums.shape[1:]
        logits = self._no_masks.sums.new_zeros(len(ids), end - start, *size)
        for frame in list(inside):
            sums = inside.pop(frame)  # freed once copied: the window is never held twice
            logits[torch.searchsorted(ids, sums.ids), frame - start] = sums.mean()
        return self._class_means(), ids, logits

    def carry_over(self) -> None:
        """Begin a window with the frames that are left: one observation, the average, of each track that has any."""
        means = self._class_means()
        self.frames = {frame: sums.as_one() for frame, sums in self.frames.items()}
        newest = list(self._sightings)
        if len(newest) > self._window_clips:  # the first is what the window before left
            newest[0] = newest[0].of(self._carried)
        self._sightings.clear()
        self._sightings.append(blend(newest))
        self._window_clips = 0
        self._carried = self.observed()
        self._class_counts = torch.zeros_like(self._class_counts).index_fill(0, self._carried, 1)
        self._class_sums = means * self._class_counts.to(means)[:, None]

    def state_dict(self) -> dict[str, Tensor]:
        """Everything remembered, by name; numbers as tensors without axes."""
        state = {name: getattr(self, attribute) for name, attribute in _KEPT.items()}
        state |= {name: torch.tensor(getattr(self, attribute)) for name, attribute in _COUNTED.items()}
        for frame, sums in self.frames.items():
            state |= {f"frames.{frame}.{name}": tensor for name, tensor in sums._asdict().items()}
        for age, sighting in enumerate(self._sightings):
            state |= {f"sightings.{age}.{name}": tensor for name, tensor in sighting._asdict().items()}
        return state | {"no_masks": self._no_masks.sums}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], recent_clips: int) -> "TrackMemory":
        """The memory whose `state_dict` that is.

        Raises:
            KeyError: the name of a tensor that is missing.
            ValueError: names of tensors that no memory has.
        """
        left = dict(state)
        memory = cls(left["class_sums"], left.pop("no_masks")[:, None], left["embeddings"], recent_clips)
        for name, attribute in _KEPT.items():
            setattr(memory, attribute, left.pop(name))
        for name, attribute in _COUNTED.items():
            setattr(memory, attribute, int(left.pop(name)))
        frames = sorted({int(name.split(".")[1]) for name in left if name.startswith("frames.")})
        memory.frames = {t: FrameSums(*(left.pop(f"frames.{t}.{name}") for name in FrameSums._fields)) for t in frames}
        sightings = sum(name.startswith("sightings.") for name in left) // len(Sighting._fields)
        for age in range(sightings):
            memory._sightings.append(Sighting(*(left.pop(f"sightings.{age}.{name}") for name in Sighting._fields)))
        if left:
            raise ValueError(f"unknown tensors {', '.join(sorted(left))}")
        return memory

    def _class_means(self) -> Tensor:
        return self._class_sums / self._class_counts.clamp(min=1).to(self._class_sums)[:, None]


# What a saved memory calls its tensors and its numbers.
_KEPT = {
    "last_seen": "last_seen",
    "embeddings": "embeddings",
    "class_sums": "_class_sums",
    "class_counts": "_class_counts",
    "carried": "_carried",
}
_COUNTED = {"clips": "clips", "window_clips": "_window_clips"}


def _grown(x: Tensor, number: int) -> Tensor:
    """With rows of zeros appended, up to `number`."""
    return torch.cat([x, x.new_zeros(number - len(x), *x.shape[1:])])


def _ids_in(frames: Iterable[FrameSums]) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=torch.int64), *(sums.ids for sums in frames)]).unique()
