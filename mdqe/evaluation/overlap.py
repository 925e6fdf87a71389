"""Areas and intersections of the tracks of a video, from run lengths to numbers without a mask in between."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mdqe.evaluation.reading import Track
from mdqe.inference import rle


@dataclass(frozen=True)
class Runs:
    """The foreground runs of N tracks, as positions in one line of pixels: frame by frame, each column by column."""

    starts: np.ndarray
    """(R,)."""
    ends: np.ndarray
    """(R,), exclusive."""
    bounds: np.ndarray
    """(N * T + 1,): where the runs of each track's frame begin, track by track."""
    tracks: int
    frames: int

    @property
    def areas(self) -> np.ndarray:
        """Pixels (N, T) of each track in each frame."""
        return self._per_mask(self.ends - self.starts)

    def _per_mask(self, values: np.ndarray) -> np.ndarray:
        """Sums (N, T) of one value per run."""
        total = np.concatenate([[0], np.cumsum(values)])
        return np.diff(total[self.bounds]).reshape(self.tracks, self.frames)

    def covered_by(self, track: np.ndarray) -> np.ndarray:
        """Pixels (N, T) that each mask shares with the runs (starts, ends), (2, R), of one track."""
        starts, ends = track
        if not len(starts):
            return np.zeros((self.tracks, self.frames), np.int64)
        # The track's pixels before each position: it rises by one a pixel within its runs and is level between them.
        held = np.cumsum(ends - starts)
        knots = np.stack([starts, ends], axis=1).ravel()  # (2 R,)
        before = np.stack([held - (ends - starts), held], axis=1).ravel()
        return self._per_mask(np.interp(self.ends, knots, before) - np.interp(self.starts, knots, before))

    def of(self, track: int) -> np.ndarray:
        """(2, R): starts and ends of one track's runs, in order."""
        first, last = self.bounds[[track * self.frames, (track + 1) * self.frames]]
        return np.stack([self.starts[first:last], self.ends[first:last]])


def runs_of(name: str, tracks: Sequence[Track], size: tuple[int, int], frames: int) -> Runs:
    """The runs of tracks of one video.

    Args:
        name: of their file, for the error.
        tracks: N of them, with T masks each.
        size: (height, width) of the frames.
        frames: T.

    Raises:
        ValueError: counts that are not run lengths of that size; names the file, the record and the frame.
    """
    held = [i * frames + t for i, track in enumerate(tracks) for t, one in enumerate(track.masks) if one is not None]
    counts = [one for track in tracks for one in track.masks if one is not None]
    try:
        lengths, number = rle.runs(counts, size)
    except (ValueError, TypeError):
        _find_damage(name, tracks, size)
        raise
    pixels = size[0] * size[1]
    place = np.array(held, np.int64)
    ends = np.cumsum(lengths) + np.repeat((place % frames - np.arange(len(place))) * pixels, number)
    drawn = rle.foreground(number) & (lengths > 0)
    mask = np.repeat(place, number)[drawn]
    bounds = np.searchsorted(mask, np.arange(len(tracks) * frames + 1))
    return Runs((ends - lengths)[drawn], ends[drawn], bounds, len(tracks), frames)


def intersections(results: Runs, objects: Runs) -> np.ndarray:
    """Pixels (D, G, T), int64, that D results and G objects of one video share in each frame."""
    shared = [results.covered_by(objects.of(j)) for j in range(objects.tracks)]
    found = np.array(shared).reshape(objects.tracks, results.tracks, results.frames)
    return found.transpose(1, 0, 2).astype(np.int64)


def _find_damage(name: str, tracks: Sequence[Track], size: tuple[int, int]) -> None:
    """Raise the error that names the first mask that cannot be decoded."""
    for track in tracks:
        for t, one in enumerate(track.masks):
            try:
                rle.runs([] if one is None else [one], size)
            except (ValueError, TypeError) as error:
                reason = str(error).replace("counts of mask 0", "counts")
                raise ValueError(f'{name}: {track.where}: "segmentations" in frame {t}: {reason}') from None
