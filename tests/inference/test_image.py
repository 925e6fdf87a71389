"""Image results against the reference data, and their corner cases."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mdqe.boxes import mask_boxes
from mdqe.inference.image import box_iou, filter_image


def unpack(packed: torch.Tensor, *shape: int) -> np.ndarray:
    return np.unpackbits(packed.numpy(), axis=1)[:, : np.prod(shape)].reshape(-1, *shape).astype(bool)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_reference_post_processing(shared, dtype):
    meta = json.loads((shared / "golden/image_post.json").read_text())
    tensors = load_file(shared / "golden/image_post.safetensors")
    found = filter_image(
        tensors["class_scores"].to(dtype),
        tensors["mask_logits"].to(dtype),
        meta["frame_size"],
        meta["image_size"],
        score_threshold=meta["score_threshold"],
    )
    order = tensors["scores"].argsort(descending=True, stable=True)
    torch.testing.assert_close(found.scores.float(), tensors["scores"][order], rtol=1e-5, atol=1e-6)
    assert torch.equal(found.labels, tensors["labels"][order])
    assert torch.equal(found.boxes, tensors["boxes_xyxy"][order])
    assert np.array_equal(found.masks, unpack(tensors["masks_packed"], *meta["image_size"])[order])


def test_reference_image(shared):
    tensors = load_file(shared / "golden/coco_image.safetensors")
    found = filter_image(tensors["cls"].double(), tensors["mask_logits"][:, 0].double(), (128, 160), (192, 240))
    order = tensors["scores"].argsort(descending=True, stable=True)
    torch.testing.assert_close(found.scores.float(), tensors["scores"][order], rtol=1e-5, atol=1e-6)
    assert torch.equal(found.labels, tensors["labels"][order])
    expected = unpack(tensors["masks_packed"], 192, 240)[order]
    union = (expected | found.masks.numpy()).sum((1, 2))
    assert ((expected & found.masks.numpy()).sum((1, 2)) / union > 0.999).all()  # logits are stored in half precision


def test_memory_is_cut_in_chunks_without_effect(monkeypatch):
    scores, logits = torch.rand(30, 4), torch.full((30, 8, 10), -3.0)
    for q in range(30):
        logits[q, q % 5 : q % 5 + 3, q % 7 : q % 7 + 3] = torch.randn(3, 3) + 2
    whole = filter_image(scores, logits, (30, 37), (61, 75))
    monkeypatch.setattr("mdqe.inference.image.CHUNK_PIXELS", 61 * 75 * 2)
    parts = filter_image(scores, logits, (30, 37), (61, 75))
    assert len(whole.scores) > 10
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_query_of_two_classes_is_two_instances_of_one_mask():
    logits = torch.full((1, 8, 8), -9.0)
    logits[:, 2:4, 3:6] = 9
    found = filter_image(torch.tensor([[0.3, 0.01, 0.6]]), logits, (32, 32), (32, 32))
    assert found.labels.tolist() == [2, 0]
    assert found.scores[0] > 0.55 and found.scores[1] / found.scores[0] == pytest.approx(0.5)
    assert torch.equal(found.masks[0], found.masks[1]) and torch.equal(found.boxes[0], found.boxes[1])
    rows, columns = found.masks[0].nonzero().unbind(1)
    assert found.boxes[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_nothing_above_the_threshold():
    found = filter_image(torch.full((3, 2), 0.04), torch.randn(3, 8, 8), (32, 32), (64, 48))
    assert [tuple(x.shape) for x in found] == [(0,), (0,), (0, 4), (0, 64, 48)]
    assert found.masks.dtype == torch.bool and found.labels.dtype == torch.int64


def test_overlap_with_a_better_box_lowers_every_score():
    logits = torch.full((2, 16, 16), -9.0)
    logits[0, 4:12, 4:12] = 9
    logits[1, 4:12, 4:12] = 9
    found = filter_image(torch.tensor([[0.9], [0.8]]), logits, (64, 64), (64, 64))
    assert len(found.scores) == 1 and found.scores.item() > 0.85  # the same box: nothing is left of the second


def test_boxes_of_masks():
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[1, 4, 6] = True
    assert mask_boxes(masks).tolist() == [[2, 1, 6, 3], [6, 4, 7, 5], [0, 0, 0, 0]]


def test_tiny_boxes_overlap_little():
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.0, 0.75, 0.5], [0.0, 0.0, 0.01, 0.01]])
    iou = box_iou(boxes)
    assert iou[0, 1].item() == pytest.approx(1 / 3)
    assert iou[2, 2].item() == pytest.approx(0.1)  # 1e-4 over a union of at least 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3), torch.ones(3, 8, 8), (32, 32), (32, 32)), r"class_scores must be \(Q, K\)"),
        ((torch.ones(3, 2), torch.ones(3, 1, 8, 8), (32, 32), (32, 32)), r"mask_logits must be \(3, h, w\)"),
        ((torch.ones(3, 2), torch.ones(2, 8, 8), (32, 32), (32, 32)), r"mask_logits must be \(3, h, w\).*\(2, 8, 8\)"),
        ((torch.ones(3, 2), torch.ones(3, 8, 8), (32, 33), (32, 32)), r"within the masks' \(32, 32\), got \(32, 33\)"),
        ((torch.ones(3, 2), torch.ones(3, 8, 8), (32, 32), (0, 32)), r"output_size must be .* got \(0, 32\)"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        filter_image(*arguments)
