"""Results of single images against the reference data, and special cases."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mdqe.inference.image import filter_image


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


def test_chunks_do_not_change_the_result(monkeypatch):
    scores, logits = torch.rand(30, 4), torch.full((30, 8, 10), -3.0)
    for q in range(30):
        logits[q, q % 5 : q % 5 + 3, q % 7 : q % 7 + 3] = torch.randn(3, 3) + 2
    whole = filter_image(scores, logits, (30, 37), (61, 75))
    monkeypatch.setattr("mdqe.inference.image.CHUNK_PIXELS", 61 * 75 * 2)
    parts = filter_image(scores, logits, (30, 37), (61, 75))
    assert len(whole.scores) > 10
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_a_query_with_two_classes_gives_two_instances_with_one_mask():
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
    assert len(found.scores) == 1 and found.scores.item() > 0.85  # the same box: the score of the second becomes 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3), torch.ones(3, 8, 8), (32, 32), (32, 32)), r"must be \(Q, K\).* got \(\(3,\), \(3, 8, 8\)\)"),
        ((torch.ones(3, 2), torch.ones(3, 1, 8, 8), (32, 32), (32, 32)), r"and \(Q, h, w\), got .*\(3, 1, 8, 8\)"),
        ((torch.ones(3, 2), torch.ones(2, 8, 8), (32, 32), (32, 32)), r"got \(\(3, 2\), \(2, 8, 8\)\)"),
        ((torch.ones(3, 2), torch.ones(3, 8, 8), (32, 33), (32, 32)), r"within the masks' \(32, 32\), got \(32, 33\)"),
        ((torch.ones(3, 2), torch.ones(3, 8, 8), (32, 32), (0, 32)), r"output_size is \(0, 32\), expected"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        filter_image(*arguments)
