"""From sources of clips to batches: which clip is drawn when, by any worker of any process."""

import hashlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mdqe.errors import InputError
from mdqe.targets import ClipTargets

_ROUNDS = 32  # of a shuffle


class ClipSource(Protocol):
    """Videos, images or scenes that clips are drawn from: `SyntheticClips`, `VideoClips`, `PseudoClips`."""

    def __len__(self) -> int:
        """Number of videos, images or scenes."""
        ...

    def clip(self, index: int, generator: torch.Generator) -> tuple[Tensor, ClipTargets]:
        """A clip for training of item `index`: frames (T, 3, H, W) uint8, RGB, and its targets.

        All that is random comes from `generator`: the same state gives the same clip.
        """
        ...


class MixedClips(Dataset[tuple[Tensor, ClipTargets]]):
    """An endless row of clips from one or several sources. Item n depends on the seed and n alone.

    So any worker of any process can draw any item, and a run that stopped before item n goes on with item n. The
    sources take turns as evenly as their ratios allow. Within a source, every item comes once before any comes again,
    in an order that is new each time.

    Args:
        sources: of clips with the same number of frames.
        ratios: how often each source is drawn, relative to the others; None: as their lengths.
        seed: a whole number.

    Raises:
        ValueError: no sources, an empty one, or ratios that are not as many positive numbers.
    """

    def __init__(self, sources: Sequence[ClipSource], ratios: Sequence[float] | None = None, seed: int = 0) -> None:
        self.sources, self.seed = list(sources), seed
        lengths = [len(source) for source in self.sources]
        if not lengths or min(lengths) < 1:
            raise InputError(f"sources have {lengths} items, expected one or more sources of one or more")
        self.ratios = list(lengths if ratios is None else ratios)
        if len(self.ratios) != len(lengths) or not all(0 < ratio < float("inf") for ratio in self.ratios):
            raise InputError(f"ratios is {self.ratios}, expected {len(lengths)} positive numbers, one a source")

    def __getitem__(self, n: int) -> tuple[Tensor, ClipTargets]:
        """Frames (T, 3, H, W) uint8 and targets of item n, 0 or more."""
        source, index = self.place(n)
        generator = torch.Generator().manual_seed(_hash(self.seed, n))
        return self.sources[source].clip(index, generator)

    def place(self, n: int) -> tuple[int, int]:
        """The number of the source that item n comes from, and of the item in it."""
        if n < 0:
            raise IndexError(f"item {n}; the first is 0")
        source, drawn = _turn(n, self.ratios)
        epoch, position = divmod(drawn, len(self.sources[source]))
        return source, _permuted(position, len(self.sources[source]), self.seed, source, epoch)


class StepSampler(Sampler[list[int]]):
    """The batches of one process, for a DataLoader's `batch_sampler`: consecutive items, shared out by rank.

    Step s of rank r holds the items from (s · ranks + r) · batch_size on, so that the ranks' batches together are the
    one batch that a single process with ranks · batch_size would draw.

    Args:
        batch_size: clips of this process in a step.
        start, stop: the steps, `stop` not included.
        rank, ranks: of this process, and how many there are.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(self, batch_size: int, start: int, stop: int, *, rank: int = 0, ranks: int = 1) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, expected 1 or more")
        if not 0 <= start <= stop:
            raise InputError(f"steps are {start} to {stop}, expected 0 or more and none before the first")
        if not 0 <= rank < ranks:
            raise InputError(f"rank is {rank} of {ranks}, expected 0 to {ranks - 1}")
        self.batch_size, self.steps, self.rank, self.ranks = batch_size, range(start, stop), rank, ranks

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            first = (step * self.ranks + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


def collate(clips: Sequence[tuple[Tensor, ClipTargets]]) -> tuple[Tensor, list[ClipTargets]]:
    """Clips as one batch: frames (B, T, 3, H, W), zeros right and below where a clip is smaller, and their targets.

    The targets' masks keep their clip's own size, as `MDQE.loss` takes them.

    Raises:
        ValueError: clips of different numbers of frames.
    """
    frames = [clip for clip, _ in clips]
    lengths = [len(clip) for clip in frames]
    if len(set(lengths)) != 1:
        raise InputError(f"clips have {lengths} frames, expected as many in each")
    size = [max(clip.shape[axis] for clip in frames) for axis in (-2, -1)]
    batch = frames[0].new_zeros(len(frames), lengths[0], 3, *size)
    for row, clip in zip(batch, frames, strict=True):
        row[..., : clip.shape[-2], : clip.shape[-1]] = clip
    return batch, [targets for _, targets in clips]


def _turn(n: int, ratios: Sequence[float]) -> tuple[int, int]:
    """Whose turn it is at place n of a row in which each source is spread evenly, and how many turns it has had.

    Of two sources the first has had ⌊n · share⌋ turns. Of more, the others share its gaps in the same way.
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
    """Where a permutation of 0 … length − 1 that the key names takes `position`.

    In every round the numbers are paired (those with the same sum), and a pair changes places or not: the swap-or-not
    shuffle of Hoang, Morris and Rogaway (CRYPTO 2012). Nothing is stored, so an endless source is shuffled as well as a
    short one.
    """
    for turn in range(_ROUNDS):
        partner = (_hash(*key, turn) - position) % length
        if _hash(*key, turn, max(position, partner)) % 2:
            position = partner
    return position


def _hash(*key: int) -> int:
    """A number in 0 … 2⁶³ − 1 that looks random, the same everywhere."""
    digest = hashlib.blake2b(" ".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
