"""ClipTargets, and the targets at the scales of the losses."""

import dataclasses
from typing import Any

import clips
import pytest
import torch
from torch.nn import functional as F

from mdqe.losses import Criterion
from mdqe.losses.targets import scale_targets, stack_targets
from mdqe.targets import ClipTargets


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": torch.zeros(3, 2, 64, 96)}, r"masks is \(3, 2, 64, 96\) float32, expected \(K, T, H, W\) bool"),
        ({"masks": torch.zeros(3, 64, 96, dtype=torch.bool)}, "masks"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, r"labels is \(2,\) int64, expected \(3,\)"),
        ({"labels": torch.zeros(3)}, "labels .* whole numbers"),
        ({"ids": torch.zeros(3, dtype=torch.int64)}, r"ids is \(3,\) int64, expected \(3, 2\)"),
        ({"boxes": torch.zeros(3, 2, 4, dtype=torch.int64)}, "boxes .* floating point"),
        ({"labels": torch.tensor([0, -1, 1])}, r"labels is \[0, -1, 1\]"),
        ({"ids": torch.tensor([[0, 0], [1, 2], [3, 3]])}, "one id per object"),
        ({"ids": torch.tensor([[0, 0], [1, 1], [1, -1]])}, "a different id for each object"),
        ({"boxes": torch.full((3, 2, 4), float("nan"))}, "boxes has .*nan.*expected finite"),
        ({"boxes": torch.tensor([5.0, 5, 4, 9]).expand(3, 2, 4)}, "x2 >= x1 and y2 >= y1, not cxcywh"),
        ({"boxes": torch.tensor([0.1, 0.2, 0.5, 1]).expand(3, 2, 4)}, r"boxes has \[0.1.*in pixels, not in \[0, 1\]"),
        ({"boxes": torch.tensor([50.0, 50, 500, 400]).expand(3, 2, 4)}, r"pixels of the masks, which are 96×64"),
        ({"boxes": torch.tensor([100.0, 10, 110, 20]).expand(3, 2, 4)}, r"pixels of the masks, which are 96×64"),
    ],
)
def test_invalid_targets_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(clips.targets(3), **change)


@pytest.mark.parametrize(
    ("labels", "masks", "error", "message"),
    [
        (torch.tensor([1, 2, 3]), torch.ones(1, 2, 4, 5, dtype=torch.bool), ValueError, r"labels is \(3,\) int64"),
        ([1], torch.ones(1, 2, 4, 5, dtype=torch.bool), ValueError, "labels is a list"),
        (torch.tensor([1]), torch.ones(1, 4, 5, dtype=torch.bool), ValueError, r"masks is \(1, 4, 5\) bool"),
        (torch.tensor([1]), torch.ones(1, 2, 4, 5), ValueError, "float32, expected"),
        (torch.tensor([1]), torch.ones(1, 2, 4, 5, dtype=torch.bool).numpy(), TypeError, "masks is a ndarray"),
    ],
)
def test_invalid_masks_are_named(labels: Any, masks: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ClipTargets.from_masks(labels, masks)


def test_targets_are_compared_by_identity() -> None:
    targets = clips.targets(2)
    assert targets in [targets] and targets not in [clips.targets(2)]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_and_ids_of_any_whole_numbers(dtype: torch.dtype) -> None:
    first, second = clips.targets(1), clips.targets(3)  # all of the first are present, so its ids may be unsigned
    narrow = dataclasses.replace(first, labels=first.labels.to(dtype), ids=first.ids.to(dtype))
    assert narrow.labels.dtype == narrow.ids.dtype == torch.int64
    expected, losses = (_losses([one, second]) for one in (first, narrow))
    assert all(torch.equal(losses[name], loss) for name, loss in expected.items())


def _losses(targets: list[ClipTargets]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)  # `init_reid` draws queries
    return Criterion()(clips.output(2), targets)


def test_a_box_of_the_first_pixel_is_valid() -> None:
    dataclasses.replace(clips.targets(3), boxes=torch.tensor([0.0, 0, 1, 1]).expand(3, 2, 4))


def test_no_objects_are_valid() -> None:
    empty = clips.targets(0)
    assert empty.object_ids.shape == (0,)
    assert empty.to("cpu").masks.shape == (0, clips.FRAMES, *clips.SIZE)


@pytest.mark.parametrize("size", [clips.SIZE, (50, 61)])
def test_masks_are_resized_as_bilinear_interpolation_does(size: tuple[int, int]) -> None:
    ragged = torch.rand(3, clips.FRAMES, *size) > 0.4
    target = dataclasses.replace(clips.targets(3, size=size), masks=ragged)
    scaled = scale_targets(target, clips.SIZE, clips.CLASSES, torch.float64)
    present = (target.ids >= 0)[..., None, None]
    padded = F.pad(ragged.double(), (0, clips.SIZE[1] - size[1], 0, clips.SIZE[0] - size[0]))
    for stride, actual in ((4, scaled.masks), (8, scaled.inner)):
        resized = F.interpolate(padded, scale_factor=1 / stride, mode="bilinear", align_corners=False) * present
        assert torch.equal(actual, resized if stride == 4 else resized > 0.5)


def test_boxes_are_relative_to_the_padded_frame() -> None:
    target = clips.targets(4, size=(50, 61))
    scaled = scale_targets(target, (64, 64), clips.CLASSES, torch.float64)
    present = target.ids >= 0
    torch.testing.assert_close(scaled.boxes[present], (target.boxes[present] / 64).double())
    assert not scaled.boxes[~present].any()


def test_absent_objects_may_have_any_box_and_mask() -> None:
    target = clips.targets(3)
    boxes, masks = target.boxes.clone(), target.masks.clone()
    boxes[0, 0], masks[0, 0] = float("nan"), True
    changed = dataclasses.replace(target, boxes=boxes, masks=masks)
    for expected, actual in zip(
        scale_targets(target, clips.SIZE, clips.CLASSES, torch.float32),
        scale_targets(changed, clips.SIZE, clips.CLASSES, torch.float32),
        strict=True,
    ):
        assert torch.equal(expected, actual)


def test_objects_that_are_never_present_are_dropped() -> None:
    target = clips.targets(3)
    ids = target.ids.clone()
    ids[1] = -1
    scaled = scale_targets(dataclasses.replace(target, ids=ids), clips.SIZE, clips.CLASSES, torch.float32)
    assert scaled.ids.tolist() == [[-1, 0], [2, 2]]
    assert torch.equal(scaled.labels, target.labels[[0, 2]])


def test_clips_are_padded() -> None:
    scaled = [scale_targets(clips.targets(n, seed=n), clips.SIZE, clips.CLASSES, torch.float32) for n in (2, 0, 3)]
    stacked = stack_targets(scaled)
    assert stacked.valid.sum(1).tolist() == [2, 0, 3]
    for b, clip in enumerate(scaled):
        count = len(clip.labels)
        assert stacked.valid[b, :count].all()
        assert (stacked.ids[b, count:] == -2).all()
        assert torch.equal(stacked.boxes[b, :count], clip.boxes)
        assert torch.equal(stacked.labels[b, :count], clip.labels)


def test_unknown_labels_and_large_masks_are_named() -> None:
    target = dataclasses.replace(clips.targets(2), labels=torch.tensor([1, clips.CLASSES]))
    with pytest.raises(ValueError, match=r"labels is \[1, 4\], expected less than num_classes=4"):
        scale_targets(target, clips.SIZE, clips.CLASSES, torch.float32)
    with pytest.raises(ValueError, match="masks is 64x96"):
        scale_targets(clips.targets(2), (64, 64), clips.CLASSES, torch.float32)


def test_all_tensors_move() -> None:
    moved = clips.targets(2).to("meta")
    assert isinstance(moved, ClipTargets)
    assert {x.device.type for x in (moved.labels, moved.ids, moved.masks, moved.boxes)} == {"meta"}
