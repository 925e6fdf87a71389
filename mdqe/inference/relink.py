"""New ids for the masks of the tracker, frame by frame. Not part of the paper.

`ClipTracker` matches clips by the overlap of their masks and the similarity of their embeddings. Objects that look
alike have similar embeddings, so after an occlusion two of them may exchange their ids, and one object may have two
tracks. `Linker` knows how objects move.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from mdqe.errors import InputError
from mdqe.inference.linker import Linker
from mdqe.inference.saved_state import MOST, SavedTensors
from mdqe.inference.tracker import WindowTracks
from mdqe.modeling.mask_head import MASK_STRIDE

OWN = 0.5  # share of the pixels of a mask that belong to it, below which it shows what another mask shows better
SPECK = 0.1  # connected parts of a mask that are smaller than this share of the largest one are not of its object
CONNECTED = np.stack([np.zeros((3, 3)), ndimage.generate_binary_structure(2, 1), np.zeros((3, 3))])  # in each mask


class Relinker:
    """Passes the masks of final frames to a `Linker` and replaces the ids of the tracker by its ids.

    The linker gets masks alone, as sure detections: scores and labels of tracks change while more clips arrive, but the
    ids of final frames must not. Masks of the tracker may overlap, but visible parts of objects do not: a pixel belongs
    to the mask with the largest logit, and masks to which less than half of their pixels belong are dropped. The class
    scores of a new id are those of the tracks whose masks it has, weighted by the number of frames.

    Attributes:
        new_ids: for each of the frames that were relinked last, the new ids by track.
    """

    def __init__(self) -> None:
        self._linker = Linker(start_score=0.0)
        self.new_ids: list[dict[int, int]] = []
        self._frames: dict[tuple[int, int], int] = {}  # of this window, by new id and track

    @property
    def num_tracks(self) -> int:
        """Number N of new ids so far; they are 0 … N-1, in order of first appearance."""
        return self._linker.num_tracks

    @property
    def num_frames(self) -> int:
        """Number of frames so far."""
        return self._linker.num_frames

    def relink(self, window: WindowTracks, size: tuple[int, int], ends: bool) -> WindowTracks:
        """Replace the ids of the next frames.

        Args:
            window: final frames of the tracker.
            size: (height, width) of the frames in the network, without padding.
            ends: whether the window of the tracker ends after these frames.
        """
        logits, device = window.mask_logits, window.mask_logits.device
        height, width = (-(-edge // MASK_STRIDE) for edge in size)
        values: np.ndarray = logits[..., :height, :width].cpu().numpy()  # (M, frames, h, w)
        tracks = window.track_ids.numpy()
        ids = np.full(values.shape[:2], -1)
        for frame in range(values.shape[1]):
            shown = _best_masks(values[:, frame])
            ids[shown, frame] = self._linker.push(_without_specks(values[shown, frame] > 0))
        rows, columns = np.nonzero(ids >= 0)
        linked, places = np.unique(ids[rows, columns], return_inverse=True)
        self.new_ids = [{} for _ in range(values.shape[1])]
        for frame, new, track in zip(columns.tolist(), ids[rows, columns].tolist(), tracks[rows].tolist(), strict=True):
            self.new_ids[frame][track] = new
            self._frames[new, track] = self._frames.get((new, track), 0) + 1
        scores = self._class_scores(window.class_scores)
        if ends:
            self._frames = {}
        to, row, column = (torch.from_numpy(x).to(device) for x in (places, rows, columns))
        moved = logits.new_zeros(len(linked), *logits.shape[1:])
        moved[to, column] = logits[row, column]
        return WindowTracks(window.first_frame, scores, torch.from_numpy(linked), moved)

    def _class_scores(self, class_scores: Tensor) -> Tensor:
        """Class scores (N, K) of the new ids in this window, from those of the tracks."""
        found = class_scores.new_zeros(self.num_tracks, class_scores.shape[1])
        if not self._frames:
            return found
        pairs = torch.tensor(list(self._frames), device=found.device)
        weights = torch.tensor(list(self._frames.values()), device=found.device, dtype=found.dtype)
        total = found.new_zeros(len(found)).index_add_(0, pairs[:, 0], weights)
        weights /= total[pairs[:, 0]]
        return found.index_add_(0, pairs[:, 0], weights[:, None] * class_scores[pairs[:, 1]])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state by name, for `restore`."""
        frames = torch.tensor([[*pair, number] for pair, number in self._frames.items()]).long().reshape(-1, 3)
        return {"frames": frames} | {f"linker.{name}": tensor for name, tensor in self._linker.state_dict().items()}

    def restore(self, saved: SavedTensors, num_tracks: int) -> None:
        """Continue from the state of another relinker, which is all that `saved` has.

        Args:
            num_tracks: of the tracker.

        Raises:
            InputError: a tensor is missing, unknown or does not fit the others; names it.
        """
        self._linker.restore(saved.group("linker."))
        frames = saved.integers("frames", 0, MOST, None, 3)
        saved.finish()
        for name, values, number in (("ids", frames[:, 0], self.num_tracks), ("tracks", frames[:, 1], num_tracks)):
            if len(values) and int(values.max()) >= number:
                given = f"{name} up to {int(values.max())}, expected less than {number}"
                raise InputError(f"the tensor {saved.prefix + 'frames'!r} has {given}")
        self._frames = {(one, track): number for one, track, number in frames.tolist()}


def _best_masks(logits: np.ndarray) -> np.ndarray:
    """The rows, ascending, of those of the masks of a frame, logits (M, h, w), that own at least half of their pixels.

    A pixel belongs to the largest logit, the first of equal ones. As long as a mask owns less than half, the one with
    the smallest share is dropped, and its pixels belong to the others.
    """
    masks = logits > 0
    areas = masks.sum(axis=(1, 2))
    rows = np.flatnonzero(areas)  # not the empty ones: their number must not matter
    while len(rows) > 1:
        place = logits[rows].argmax(axis=0)  # (h, w), in rows
        shown = masks[rows].any(axis=0)
        shares = np.bincount(place[shown], minlength=len(rows)) / areas[rows]
        worst = int(shares.argmin())
        if shares[worst] >= OWN:
            break
        rows = np.delete(rows, worst)
    return rows


def _without_specks(masks: np.ndarray) -> np.ndarray:
    """Masks (M, h, w) without connected parts that are much smaller than the largest one.

    A few pixels far from the object would move the edges of its box, and so its measured place.
    """
    if not len(masks):
        return masks
    parts, number = ndimage.label(masks, CONNECTED)  # (M, h, w), from 1; a part belongs to one mask
    areas = np.bincount(parts.ravel(), minlength=number + 1)
    areas[0] = 0  # background
    owner = np.zeros(number + 1, np.int64)
    owner[parts.ravel()] = np.repeat(np.arange(len(masks)), masks[0].size)
    largest = np.zeros(len(masks), np.int64)
    np.maximum.at(largest, owner, areas)
    kept = (areas >= SPECK * largest[owner]) & (areas > 0)
    return np.asarray(kept[parts])
