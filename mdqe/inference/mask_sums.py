"""Sums of the mask logits of tracks per frame, the large part of the tracker's memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

SPARE = 4  # rows, so that few new tracks move the others
COLUMNS = 40  # at first, for most windows; more double, up to the most frames


class MaskSums:
    """Sums and numbers of the mask logits of tracks in the frames of a window.

    All sums are in one tensor, with a row per track and a column per frame. Adding a clip is one operation, which
    changes the tensor in place. When the tensor is full, the rows and columns in use move to a larger one.

    Args:
        no_masks: empty masks (0, h, w) with the size, type and device of the sums.
        max_frames: the most frames that are in use at once; spare columns do not exceed it.
    """

    def __init__(self, no_masks: Tensor, max_frames: int) -> None:
        self.no_masks, self.max_frames = no_masks, max_frames
        self.start = 0  # first frame that was not taken yet
        self._first = 0  # frame of the first column
        self._row_of: dict[int, int] = {}  # by track id, in order of the rows
        self._counts = np.zeros((0, 0), np.int64)  # (rows, columns)
        self._sums = self._zeros(0, 0)  # (rows, columns, h, w)

    @property
    def ids(self) -> np.ndarray:
        """Track ids (R,) of the rows."""
        return np.array(list(self._row_of), np.int64)

    @property
    def covered(self) -> list[int]:
        """Frames with tracks, ascending."""
        return (self._first + np.flatnonzero(self._counts.any(0))).tolist()

    def add(self, frames: Sequence[int], ids: np.ndarray, logits: Tensor, observations: np.ndarray | int = 1) -> None:
        """Add the logits (S, T, h, w) of the tracks `ids` (S,) in T ascending frames, each of one or more observations.

        Args:
            observations: their number, broadcast to (S, T).
        """
        new = [i for i in ids.tolist() if i not in self._row_of]
        full = len(self._row_of) + len(new) > len(self._counts) or frames[-1] >= self._first + self._counts.shape[1]
        if full and len(ids):
            span = frames[-1] + 1 - self.start
            self._move(self.start, max(span, min(max(2 * span, COLUMNS), self.max_frames)), ids)
            new = [i for i in ids.tolist() if i not in self._row_of]  # moving drops tracks without frames
        self._row_of |= {i: row for row, i in enumerate(new, len(self._row_of))}
        rows = np.array([self._row_of[i] for i in ids.tolist()], np.int64)[:, None]
        columns = np.asarray(frames) - self._first
        self._counts[rows, columns] += observations
        self._flat().index_add_(0, self._places(rows, columns), logits.flatten(0, 1).flatten(1))

    def sums(self, frames: Sequence[int]) -> tuple[list[int], np.ndarray, Tensor]:
        """Sums of the tracks in T ascending frames. A pixel is in the mask of the track if its sum is positive.

        Returns:
            places: of those F frames in `frames` that have any track.
            ids: (S,) of the tracks observed in any of them.
            sums: (S, F, h, w), maybe a view; 0 in frames where the track was not observed.
        """
        inside = [t for t, frame in enumerate(frames) if frame < self._first + self._counts.shape[1]]
        columns = np.array([frames[t] - self._first for t in inside], np.int64)
        observed = self._counts[: len(self._row_of), columns] > 0  # (R, columns)
        rows, used = (np.any(observed, axis).nonzero()[0] for axis in (1, 0))
        return [inside[t] for t in used.tolist()], self.ids[rows], self._block(rows, columns[used])

    def observed(self) -> np.ndarray:
        """Ids (M,) of the tracks observed in any frame, ascending."""
        return np.sort(self.ids[self._rows_with(slice(None))])

    def take(self, start: int, end: int) -> tuple[np.ndarray, Tensor]:
        """Remove the frames before `end`. No later clip may contain them.

        Returns:
            ids: (M,), ascending: the tracks observed in any frame from `start` to `end`.
            logits: (M, end - start, h, w), averages; 0 where a track was not observed.
        """
        used = int(np.flatnonzero(self._counts.any(0)).max(initial=-1)) + 1
        columns = slice(*(min(max(frame - self._first, 0), used) for frame in (start, end)))
        rows = self._rows_with(columns)
        rows = rows[self.ids[rows].argsort()]
        ids, counts, sums = self.ids[rows], self._counts[rows, columns].clip(1), self._sums[:, columns]
        moves = columns.stop - columns.start > used - columns.stop  # the frames that stay are fewer: move those
        if moves and (rows == np.arange(len(rows))).all():
            logits = sums[: len(rows)]
        else:
            logits = sums.index_select(0, self._on_device(rows))
        if moves:
            self._move(end, used - columns.stop)
        self._counts[:, : max(end - self._first, 0)] = 0
        self.start = end
        logits /= self._on_device(counts)[..., None, None]
        missing = end - start - logits.shape[1]  # frames past the last clip
        if missing:
            logits = torch.cat([logits, logits.new_zeros(len(ids), missing, *logits.shape[2:])], 1)
        return ids, logits

    def average(self) -> None:
        """Replace the observations of each track in each frame by one observation, their average."""
        self._sums /= self._on_device(self._counts.clip(1))[..., None, None]
        self._counts = self._counts.clip(max=1)

    def frames(self) -> Iterator[tuple[int, np.ndarray, Tensor, np.ndarray]]:
        """Each frame with tracks: its index, their ids (S,), ascending, sums (S, h, w) and numbers (S,)."""
        for column in np.flatnonzero(self._counts.any(0)).tolist():
            rows = self._rows_with(slice(column, column + 1))
            rows = rows[self.ids[rows].argsort()]
            sums = self._sums[:, column].index_select(0, self._on_device(rows))
            yield self._first + column, self.ids[rows], sums, self._counts[rows, column]

    def _rows_with(self, columns: slice) -> np.ndarray:
        """Rows of the tracks observed in any of these columns."""
        return np.flatnonzero(self._counts[: len(self._row_of), columns].any(1))

    def _move(self, first: int, columns: int, added: np.ndarray | None = None) -> None:
        """Move the frames from `first` on to a tensor with so many columns, and with rows for the `added` tracks."""
        old = slice(first - self._first, first - self._first + columns)
        rows = self._rows_with(old)
        ids, counts = self.ids[rows], self._counts[rows, old]
        used = int(np.flatnonzero(counts.any(0)).max(initial=-1)) + 1
        sums = self._sums[:, old.start : old.start + used]
        number = len(rows) + (0 if added is None else len(np.setdiff1d(added, ids)) + SPARE)
        self._counts = np.zeros((number, columns), np.int64)
        self._counts[: len(rows), :used] = counts[:, :used]
        self._sums = self._zeros(number, columns)
        whole = len(rows) == len(sums)
        self._sums[: len(rows), :used] = sums if whole else sums.index_select(0, self._on_device(rows))
        self._row_of = {i: row for row, i in enumerate(ids.tolist())}
        self._first = first

    def _zeros(self, rows: int, columns: int) -> Tensor:
        size = (rows, columns, *self.no_masks.shape[1:])
        with torch.inference_mode(False):  # such a tensor may be changed inside and outside of inference mode
            if not self.no_masks.is_cpu:
                return self.no_masks.new_zeros(size)
            # NumPy asks for large pages, and the system clears each of them when it is first used.
            return torch.from_numpy(np.zeros(size, self.no_masks.numpy().dtype))

    def _block(self, rows: np.ndarray, columns: np.ndarray) -> Tensor:
        """The sums (S, F, h, w) of rows (S,) and columns (F,), without copying them if both are consecutive."""
        if all(len(x) and x[-1] - x[0] == len(x) - 1 for x in (rows, columns)):
            return self._sums[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        sums = self._flat().index_select(0, self._places(rows[:, None], columns))
        return sums.view(len(rows), len(columns), *self.no_masks.shape[1:])

    def _flat(self) -> Tensor:
        """The sums as (rows · columns, h · w)."""
        return self._sums.flatten(0, 1).flatten(1)

    def _places(self, rows: np.ndarray, columns: np.ndarray) -> Tensor:
        """Indices into `_flat` of all pairs of rows (S, 1) and columns (F,)."""
        return self._on_device((rows * self._counts.shape[1] + columns).flatten())

    def _on_device(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self.no_masks.device)
