"""Batches of clips: the order in which clips are drawn from their sources, independent of workers and processes."""

import hashlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mdqe.errors import InputError
from mdqe.targets import ClipTargets

_ROUNDS = 32  # of the shuffle


class ClipSource(Protocol):
    """Videos, images or scenes to draw clips from: `SyntheticClips`, `VideoClips`, `PseudoClips`."""

    def __len__(self) -> int:
        """Number of videos, images or scenes."""
        ...

    def clip(self, index: int, generator: torch.Generator) -> tuple[Tensor, ClipTargets]:
        """A training clip of item `index`: frames (T, 3, H, W) uint8, RGB, and its targets.

        All random choices use `generator`: the same state gives the same clip.
        """
        ...


class MixedClips(Dataset[tuple[Tensor, ClipTargets]]):
    """An infinite sequence of clips, drawn from one or several sources. Item n depends only on the seed and on n.

    Therefore any worker of any process can draw any item, and a run that stopped before item n can resume there. The
    sources are interleaved as evenly as their ratios allow. Within a source, every item occurs once before any item
    occurs again, and the order changes every time.

    Args:
        sources: of clips with the same number of frames.
        ratios: relative frequency of each source; None: the lengths of the sources.
        seed: a whole number.

    Raises:
        ValueError: no sources, an empty source, or ratios that are not one positive number for each source.
    """

    def __init__(self, sources: Sequence[ClipSource], ratios: Sequence[float] | None = None, seed: int = 0) -> None:
        self.sources, self.seed = list(sources), seed
        lengths = [len(source) for source in self.sources]
        if not lengths or min(lengths) < 1:
            raise InputError(f"sources have {lengths} items, expected at least one source and no empty ones")
        self.ratios = list(lengths if ratios is None else ratios)
        if len(self.ratios) != len(lengths) or not all(0 < ratio < float("inf") for ratio in self.ratios):
            raise InputError(f"ratios is {self.ratios}, expected {len(lengths)} positive numbers, one for each source")

    def __getitem__(self, n: int) -> tuple[Tensor, ClipTargets]:
        """Frames (T, 3, H, W) uint8 and targets of item n, 0 or more."""
        source, index = self.place(n)
        generator = torch.Generator().manual_seed(_hash(self.seed, n))
        return self.sources[source].clip(index, generator)

    def place(self, n: int) -> tuple[int, int]:
        """The index of the source of item n, and the index of the item in the source."""
        if n < 0:
            raise IndexError(f"item {n}; the first is 0")
        source, drawn = _source_of(n, self.ratios)
        epoch, position = divmod(drawn, len(self.sources[source]))
        return source, _permuted(position, len(self.sources[source]), self.seed, source, epoch)


class StepSampler(Sampler[list[int]]):
    """The batches of one process, for the `batch_sampler` of a DataLoader: consecutive items, divided by rank.

    The batch of rank r in step s starts at item (s · ranks + r) · batch_size. The batches of all ranks together are the
    batch of a single process with ranks · batch_size.

    Args:
        batch_size: number of clips in a step of this process.
        start, stop: the steps; `stop` is excluded.
        rank, ranks: the rank of this process, and the number of processes.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(self, batch_size: int, start: int, stop: int, *, rank: int = 0, ranks: int = 1) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, expected at least 1")
        if not 0 <= start <= stop:
            raise InputError(f"start is {start} and stop is {stop}, expected 0 <= start <= stop")
        if not 0 <= rank < ranks:
            raise InputError(f"rank is {rank} and ranks is {ranks}, expected 0 <= rank < ranks")
        self.batch_size, self.steps, self.rank, self.ranks = batch_size, range(start, stop), rank, ranks

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            first = (step * self.ranks + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


def collate(clips: Sequence[tuple[Tensor, ClipTargets]]) -> tuple[Tensor, list[ClipTargets]]:
    """Combine clips into a batch: frames (B, T, 3, H, W), and a list of targets.

    Smaller clips are padded with zeros on the right and at the bottom. The masks of the targets are not padded, as
    `MDQE.loss` expects.

    Raises:
        TypeError: an item is not a pair of frames and targets.
        ValueError: frames of another shape, or clips with different numbers of frames.
    """
    for item in clips:
        _check_item(item)
    frames = [clip for clip, _ in clips]
    lengths = [len(clip) for clip in frames]
    if len(set(lengths)) != 1:
        raise InputError(f"clips have {lengths} frames, expected the same number in each")
    size = [max(clip.shape[axis] for clip in frames) for axis in (-2, -1)]
    batch = frames[0].new_zeros(len(frames), lengths[0], 3, *size)
    for row, clip in zip(batch, frames, strict=True):
        row[..., : clip.shape[-2], : clip.shape[-1]] = clip
    return batch, [targets for _, targets in clips]


def _check_item(item: Any) -> None:
    kinds = (Tensor, ClipTargets)
    if not isinstance(item, tuple | list) or len(item) != 2 or not all(map(isinstance, item, kinds)):
        parts = item if isinstance(item, tuple | list) else (item,)
        got = ", ".join(type(part).__name__ for part in parts)
        raise TypeError(f"an item of the data set is ({got}), expected (frames, targets): a tensor and ClipTargets")
    if item[0].ndim != 4 or item[0].shape[1] != 3:
        raise InputError(f"the frames of a clip are {tuple(item[0].shape)}, expected (T, 3, H, W)")


def _source_of(n: int, ratios: Sequence[float]) -> tuple[int, int]:
    """The source of item n when sources are interleaved evenly, and the number of earlier items of this source.

    Of two sources the first has ⌊n · share⌋ earlier items. Of more, the others share the rest in the same way.
    """
    shares = [Fraction(ratio) for ratio in ratios]
    for source, share in enumerate(shares[:-1]):
        share /= sum(shares[source:])
        before = int(n * share)
        if int((n + 1) * share) > before:
            return source, before
        n -= before
    return len(shares) - 1, n


def _permuted(position: int, length: int, *key: int) -> int:
    """The value at `position` in a permutation of 0 … length − 1, which the key determines.

    The swap-or-not shuffle of Hoang, Morris and Rogaway (CRYPTO 2012): in every round, numbers are paired by their sum,
    and each pair is swapped or not. It stores nothing, so it can also shuffle a source of any length.
    """
    for turn in range(_ROUNDS):
        partner = (_hash(*key, turn) - position) % length
        if _hash(*key, turn, max(position, partner)) % 2:
            position = partner
    return position


def _hash(*key: int) -> int:
    """A pseudorandom number in 0 … 2⁶³ − 1, the same on every machine."""
    digest = hashlib.blake2b(" ".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
