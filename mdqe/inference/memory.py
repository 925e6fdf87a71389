"""The tracker's memory: sums of mask logits per frame, sums of class scores per track, embeddings of the last clips.

Track ids and counts are int64 arrays on the CPU, so looking up a track needs no device synchronisation. Calls inside
and outside `torch.inference_mode` may alternate.
"""

import math
import re
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mdqe.errors import InputError
from mdqe.inference.mask_sums import MaskSums
from mdqe.inference.saved_state import MOST, SavedTensors

AVERAGED_CLIPS = 3  # number of newest clips over which the embedding of a track is averaged
CLIP_WEIGHT = 0.25  # log of the weight of a clip's embeddings relative to those of the previous clip

# Names of the tensors, arrays and numbers in `TrackMemory.state_dict`, which are also names of attributes.
_TENSORS, _ARRAYS = ("embeddings", "class_sums"), ("last_seen", "class_counts", "carried")
_NUMBERS = ("clips", "window_clips")
_FRAME_IDS = re.compile(r"frames\.(0|[1-9][0-9]{0,15})\.ids", re.ASCII)


class ClipEmbeddings(NamedTuple):
    """Embeddings of the tracks observed in one clip; rows follow `ids`, which ascend."""

    ids: np.ndarray  # (S,)
    embeddings: Tensor  # (S, E)


def weighted_mean(clips: Sequence[ClipEmbeddings], ids: np.ndarray) -> Tensor:
    """Average the embeddings of tracks `ids` (S,) over the clips that contain them: (S, E). Later clips weigh more."""
    weights = np.repeat([math.exp(CLIP_WEIGHT * i) for i in range(len(clips))], [len(clip.ids) for clip in clips])
    total = weights * (ids[:, None] == np.concatenate([clip.ids for clip in clips]))  # (S, rows of all clips)
    embeddings = torch.cat([clip.embeddings for clip in clips])
    return torch.from_numpy(total / total.sum(axis=1, keepdims=True)).to(embeddings) @ embeddings


class TrackMemory:
    """Running sums over one window, carried from window to window.

    Args:
        class_scores (D, K), mask_logits (D, T, h, w), embeddings (D, E): of the first clip. The memory has their sizes,
            types and device.
        recent_clips: number of clips at the end of a window whose embeddings are carried into the next window.
        max_frames: the most frames in memory at once: those of a window, and of a clip that begins in its last frame.
    """

    def __init__(
        self, class_scores: Tensor, mask_logits: Tensor, embeddings: Tensor, recent_clips: int, max_frames: int
    ) -> None:
        none = np.zeros(0, np.int64)
        self.clips = 0  # remembered so far
        self.last_seen = none  # (N,) value of `clips` when the track was last observed
        self.embeddings = embeddings.new_zeros(0, embeddings.shape[1])  # (N, E) for matching
        self.masks = MaskSums(mask_logits.new_zeros(0, *mask_logits.shape[2:]), max_frames)
        self.class_sums = class_scores.new_zeros(0, class_scores.shape[1])  # (N, K) over the window
        self.class_counts = none  # (N,)
        self.formats = self.class_sums, self.masks.no_masks, self.embeddings  # (0, K), (0, h, w), (0, E)
        self.window_clips = 0  # clips remembered in this window
        self.carried = none  # tracks that had frames in the window when it began
        self._recent: deque[ClipEmbeddings] = deque(maxlen=max(AVERAGED_CLIPS, recent_clips))

    def remember(
        self, frames: Sequence[int], ids: np.ndarray, class_scores: Tensor, mask_logits: Tensor, embeddings: Tensor
    ) -> None:
        """Add a clip: one row of each tensor per track in `ids`; new ids continue from the last one."""
        born = max(int(ids.max(initial=-1)) + 1 - len(self.last_seen), 0)
        order = ids.argsort()
        on_device, ascending = (torch.from_numpy(x).to(embeddings.device) for x in (ids, order))
        self.clips += 1
        self.window_clips += 1
        if born:
            self.last_seen, self.class_counts = (np.pad(x, (0, born)) for x in (self.last_seen, self.class_counts))
        self.last_seen[ids] = self.clips
        self.class_counts[ids] += 1
        self._recent.append(ClipEmbeddings(ids[order], embeddings.index_select(0, ascending)))
        mean = weighted_mean(list(self._recent)[-AVERAGED_CLIPS:], ids)
        self.embeddings = _pad_rows(self.embeddings, born).index_copy(0, on_device, mean)
        self.class_sums = _pad_rows(self.class_sums, born).index_add(0, on_device, class_scores)
        self.masks.add(frames, ids, mask_logits)

    def take(self, start: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """Remove frames [start, end) from the memory and return them.

        Returns:
            class_scores: (N, K), averages over the window; 0 where the track was not observed.
            ids: (M,), the tracks observed in any of these frames.
            mask_logits: (M, end - start, h, w), averages; 0 where the track was not observed.
        """
        ids, logits = self.masks.take(start, end)
        return self._class_means(), torch.from_numpy(ids), logits

    def carry_over(self) -> None:
        """Begin a window with the remaining frames. The observations of a track become one, their average."""
        means = self._class_means()
        self.masks.average()
        recent = list(self._recent)
        if len(recent) > self.window_clips:  # the first entry is the average carried from the window before
            here = np.isin(recent[0].ids, self.carried)
            rows = torch.from_numpy(here.nonzero()[0]).to(means.device)
            recent[0] = ClipEmbeddings(recent[0].ids[here], recent[0].embeddings.index_select(0, rows))
        self._recent.clear()
        ids = np.unique(np.concatenate([clip.ids for clip in recent]))
        with torch.autocast(means.device.type, enabled=False):
            self._recent.append(ClipEmbeddings(ids, weighted_mean(recent, ids)))
        self.window_clips = 0
        self.carried = self.masks.observed()
        self.class_counts = np.zeros_like(self.class_counts)
        self.class_counts[self.carried] = 1
        self.class_sums = means * torch.from_numpy(self.class_counts).to(means)[:, None]

    def state_dict(self) -> dict[str, Tensor]:
        """All contents by name; numbers are tensors without axes."""
        state = {name: getattr(self, name) for name in _TENSORS}
        state |= {name: torch.tensor(getattr(self, name)) for name in _ARRAYS}
        state |= {name: torch.tensor(getattr(self, name)) for name in _NUMBERS}
        for frame, ids, sums, counts in self.masks.frames():
            parts = {"ids": torch.tensor(ids), "sums": sums, "counts": torch.tensor(counts)}
            state |= {f"frames.{frame}.{name}": tensor for name, tensor in parts.items()}
        for i, clip in enumerate(self._recent):  # "sightings" is their name in saved sessions
            state |= {f"sightings.{i}.ids": torch.tensor(clip.ids), f"sightings.{i}.embeddings": clip.embeddings}
        return state | {"no_masks": self.masks.no_masks}

    @classmethod
    def from_state(cls, state: SavedTensors, recent_clips: int, max_frames: int, start: int) -> "TrackMemory":
        """Create the memory that had this `state_dict`; `start` is the first frame that was not taken yet.

        Raises:
            InputError: a tensor is missing, unknown or does not fit the others; names it.
        """
        no_masks = state.floats("no_masks", 0, None, None)
        clips = state.integer("clips", 1)
        last_seen = state.integers("last_seen", 1, clips, None)
        number = len(last_seen)
        embeddings, class_sums = (state.floats(name, number, None) for name in ("embeddings", "class_sums"))
        memory = cls(class_sums, no_masks[:, None], embeddings, recent_clips, max_frames)
        memory.clips, memory.window_clips = clips, state.integer("window_clips", 0, clips)
        memory.last_seen, memory.embeddings, memory.class_sums = last_seen.numpy().copy(), embeddings, class_sums
        memory.class_counts = state.integers("class_counts", 0, memory.window_clips + 1, number).numpy().copy()
        memory.carried = state.ids("carried", number).numpy().copy()
        memory.masks.start = start
        for frame in sorted(int(name.split(".")[1]) for name in state.names if _FRAME_IDS.fullmatch(name)):
            name = f"frames.{frame}"
            if not start <= frame < start + max_frames:
                raise InputError(f"the tensor {f'{state.prefix}{name}.ids'!r} does not fit the next frame, {start}")
            ids = state.ids(f"{name}.ids", number)
            sums = state.floats(f"{name}.sums", len(ids), *no_masks.shape[1:], like=no_masks)
            counts = state.integers(f"{name}.counts", 1, MOST, len(ids))
            memory.masks.add([frame], ids.numpy(), sums[:, None], counts.numpy()[:, None])
        for i in range(memory._recent.maxlen or 0):
            if i and f"sightings.{i}.ids" not in state.names:
                break
            ids = state.ids(f"sightings.{i}.ids", number)
            rows = state.floats(f"sightings.{i}.embeddings", len(ids), embeddings.shape[1], like=embeddings)
            memory._recent.append(ClipEmbeddings(ids.numpy().copy(), rows))
        state.finish()
        return memory

    def _class_means(self) -> Tensor:
        return self.class_sums / torch.from_numpy(self.class_counts.clip(1)).to(self.class_sums)[:, None]


def _pad_rows(x: Tensor, number: int) -> Tensor:
    """Append rows of zeros."""
    return torch.cat([x, x.new_zeros(number, *x.shape[1:])]) if number else x
