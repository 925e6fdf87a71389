"""The order of clips: evenly mixed, shuffled in every epoch, and independent of workers and ranks."""

from collections import Counter
from itertools import permutations
from math import factorial

import pytest
import torch
from torch.utils.data import DataLoader

from mdqe.data.loader import MixedClips, StepSampler, collate
from mdqe.data.synthetic import SyntheticClips
from mdqe.targets import ClipTargets


class Numbers:
    """A source whose clips contain their index and random numbers."""

    def __init__(self, length: int, frames: int = 2, size: tuple[int, int] = (4, 6)) -> None:
        self.length, self.frames, self.size = length, frames, size

    def __len__(self):
        return self.length

    def clip(self, index, generator):
        frames = torch.randint(256, (self.frames, 3, *self.size), generator=generator, dtype=torch.uint8)
        targets = ClipTargets(
            torch.tensor([index]),
            torch.zeros(1, self.frames, dtype=torch.int64),
            torch.ones(1, self.frames, *self.size, dtype=torch.bool),
            torch.zeros(1, self.frames, 4),
        )
        return frames, targets


def assert_equal(clip, other):
    assert torch.equal(clip[0], other[0])
    for name in ("labels", "ids", "masks", "boxes"):
        assert torch.equal(getattr(clip[1], name), getattr(other[1], name)), name


@pytest.mark.parametrize("ratios", [(1.0, 0.75), (0.1, 0.3), (1, 1, 1), (5, 1, 2.5), (1, 100), (3,)])
def test_sources_are_interleaved_evenly(ratios):
    clips = MixedClips([Numbers(10**6) for _ in ratios], ratios)
    seen = Counter()
    for n in range(2000):
        source, _ = clips.place(n)
        seen[source] += 1
        for i, ratio in enumerate(ratios):
            assert abs(seen[i] - (n + 1) * ratio / sum(ratios)) < len(ratios), "always near its share"


def test_default_ratios_are_the_lengths():
    clips = MixedClips([Numbers(30), Numbers(90)])
    assert Counter(clips.place(n) for n in range(120)) == Counter(
        [(0, i) for i in range(30)] + [(1, i) for i in range(90)]
    ), "one epoch of both sources"


def test_epochs_contain_every_item_in_a_new_order():
    clips = MixedClips([Numbers(10), Numbers(100)], (1, 2), seed=4)
    rows = {0: [], 1: []}
    for n in range(1500):
        source, index = clips.place(n)
        rows[source].append(index)
    for source, length in ((0, 10), (1, 100)):
        epochs = [rows[source][i : i + length] for i in range(0, len(rows[source]) - length, length)]
        assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    other = MixedClips([Numbers(10), Numbers(100)], (1, 2), seed=5)
    assert [other.place(n) for n in range(50)] != [clips.place(n) for n in range(50)]


@pytest.mark.parametrize("length", [2, 4, 5])
def test_orders_are_uniform(length):
    clips = MixedClips([Numbers(length)], seed=1)
    orders = Counter(tuple(clips.place(length * epoch + i)[1] for i in range(length)) for epoch in range(1500))
    expected = 1500 / factorial(length)
    chi = sum((orders[order] - expected) ** 2 / expected for order in permutations(range(length)))
    freedom = factorial(length) - 1
    assert chi < freedom + 4 * (2 * freedom) ** 0.5 + 8, "four sigma, and the tail of few degrees of freedom"


def test_huge_sources_are_shuffled():
    clips = MixedClips([Numbers(2**40)])
    found = [clips.place(n)[1] for n in range(1000)]
    assert len(set(found)) == 1000
    quarters = Counter(index >> 38 for index in found)
    assert all(180 < quarters[i] < 320 for i in range(4)), "five sigma"


def test_items_depend_only_on_seed_and_number():
    clips = MixedClips([Numbers(5), Numbers(8)], (1, 2), seed=3)
    torch.manual_seed(1)
    first = [clips[n] for n in range(20)]
    torch.manual_seed(2)
    for n in reversed(range(20)):
        assert_equal(clips[n], first[n])
    next_epoch = next(n for n in range(1, 100) if clips.place(n) == clips.place(0))
    assert not torch.equal(clips[next_epoch][0], first[0][0]), "another clip of the same item"
    assert not torch.equal(MixedClips(clips.sources, (1, 2), seed=4)[0][0], first[0][0])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_clips_do_not_depend_on_workers(workers):
    clips = MixedClips([SyntheticClips(6, seed=9, frames=3, size=(32, 48), scene_frames=8, flip=0.5)], seed=2)
    loader = DataLoader(clips, batch_sampler=StepSampler(2, 0, 5), collate_fn=collate, num_workers=workers)
    for step, (frames, targets) in enumerate(loader):
        assert frames.shape == (2, 3, 3, 32, 48) and frames.dtype == torch.uint8
        for i in range(2):
            assert_equal((frames[i], targets[i]), clips[2 * step + i])


def test_ranks_together_equal_one_process():
    clips = MixedClips([Numbers(5), Numbers(8)], (1, 2), seed=3)

    def batches(*steps, **ranks):
        return list(DataLoader(clips, batch_sampler=StepSampler(*steps, **ranks), collate_fn=collate))

    whole = batches(4, 0, 6)
    halves = [batches(2, 0, 6, rank=rank, ranks=2) for rank in range(2)]
    assert len(whole) == len(halves[0]) == len(halves[1]) == 6
    for (frames, targets), *parts in zip(whole, *halves, strict=True):
        assert torch.equal(frames, torch.cat([part for part, _ in parts]))
        together = [one for _, some in parts for one in some]
        for one, other in zip(targets, together, strict=True):
            assert torch.equal(one.labels, other.labels)
    assert list(StepSampler(4, 3, 6)) == list(StepSampler(4, 0, 6))[3:], "resumed at step 3"
    assert len(StepSampler(4, 3, 6)) == 3


def test_batches_are_padded_right_and_at_the_bottom():
    small, large = (Numbers(1, size=size).clip(0, torch.Generator()) for size in ((4, 9), (6, 5)))
    frames, targets = collate([small, large])
    assert frames.shape == (2, 2, 3, 6, 9) and frames.dtype == torch.uint8
    assert torch.equal(frames[0, ..., :4, :], small[0]) and (frames[0, ..., 4:, :] == 0).all()
    assert torch.equal(frames[1, ..., :5], large[0]) and (frames[1, ..., 5:] == 0).all()
    assert [one.masks.shape for one in targets] == [(1, 2, 4, 9), (1, 2, 6, 5)]
    with pytest.raises(ValueError, match=r"clips have \[2, 3\] frames"):
        collate([small, Numbers(1, frames=3).clip(0, torch.Generator())])


@pytest.mark.parametrize(
    ("lengths", "ratios", "message"),
    [
        ([], None, r"sources have \[\] items, expected at least one source"),
        ([3, 0], None, r"sources have \[3, 0\] items"),
        ([3, 2], (1,), r"ratios is \[1\], expected 2 positive numbers, one for each source"),
        ([3, 2], (1, 0), r"ratios is \[1, 0\]"),
        ([3, 2], (1, float("nan")), "ratios is"),
        ([3, 2], (1, float("inf")), "ratios is"),
    ],
)
def test_invalid_mixtures(lengths, ratios, message):
    with pytest.raises(ValueError, match=message):
        MixedClips([Numbers(length) for length in lengths], ratios)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 5, 0, 1), "batch_size is 0, expected at least 1"),
        ((1, 4, 3, 0, 1), "start is 4 and stop is 3, expected 0 <= start <= stop"),
        ((1, -1, 3, 0, 1), "start is -1"),
        ((1, 0, 1, 2, 2), "rank is 2 and ranks is 2, expected 0 <= rank < ranks"),
    ],
)
def test_invalid_steps(arguments, message):
    *steps, rank, ranks = arguments
    with pytest.raises(ValueError, match=message):
        StepSampler(*steps, rank=rank, ranks=ranks)


def test_negative_items():
    with pytest.raises(IndexError):
        MixedClips([Numbers(3)])[-1]


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (torch.zeros(2, 3, 8, 8), TypeError, r"is \(Tensor\), expected \(frames, targets\)"),
        ((torch.zeros(2, 3, 8, 8), {}), TypeError, r"is \(Tensor, dict\)"),
        ((torch.zeros(2, 3, 8, 8).numpy(), None), TypeError, r"is \(ndarray, NoneType\)"),
        ("HWC", ValueError, r"frames of a clip are \(2, 8, 8, 3\), expected \(T, 3, H, W\)"),
    ],
)
def test_wrong_items_are_named(item, error, message):
    targets = ClipTargets.from_masks(torch.tensor([0]), torch.ones(1, 2, 8, 8, dtype=torch.bool))
    with pytest.raises(error, match=message):
        collate([(torch.zeros(2, 8, 8, 3), targets) if item == "HWC" else item])
