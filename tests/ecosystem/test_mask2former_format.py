"""Post-processed results compared with those of the Mask2Former processor of transformers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mdqe import MDQEConfig, MDQEImageProcessor, VideoInstances

transformers = pytest.importorskip("transformers")
SIZE, CLASSES = (48, 64), 3  # divide 384, the size of the intermediate masks of Mask2Former


@pytest.fixture(scope="module")
def theirs():
    return transformers.Mask2FormerImageProcessor()


def scene(overlap: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Masks (4, H, W), scores and labels (4,). The last score is low; the first three masks may overlap."""
    masks = torch.zeros(4, *SIZE, dtype=torch.bool)
    for i, x in enumerate((4, 14, 24) if overlap else (2, 18, 36)):
        masks[i, 5 + 6 * i : 25 + 5 * i, x : x + 14] = True
    masks[3, 1:3] = True
    return masks, torch.tensor([0.9, 0.8, 0.6, 0.3]), torch.tensor([2, 0, 2, 1])


def as_mask2former(masks, scores, labels) -> SimpleNamespace:
    """Query logits with these scores. The masks are binary, so that weighting by mask quality keeps the scores."""
    rest = (1 - scores) / CLASSES  # for the other classes and "no object"
    probabilities = rest[:, None].expand(-1, CLASSES + 1).clone()
    probabilities[torch.arange(len(labels)), labels] = scores
    fine = torch.nn.functional.interpolate(masks[None].float(), size=(384, 384), mode="nearest")
    return SimpleNamespace(class_queries_logits=probabilities.log()[None], masks_queries_logits=fine * 60 - 30)


def both(theirs, overlap: bool, **options):
    """Their dictionary and ours for one frame."""
    masks, scores, labels = scene(overlap)
    a = theirs.post_process_instance_segmentation(as_mask2former(masks, scores, labels), target_sizes=[SIZE], **options)
    result = VideoInstances.from_masks(scores, labels, [11, 5, 8, 2], masks[:, None])
    b = MDQEImageProcessor(MDQEConfig()).post_process_instance_segmentation(result, target_sizes=[SIZE], **options)
    assert len(a) == len(b) == 1
    return a[0], b[0]


def test_maps(theirs):
    """Only the ids differ: theirs number the segments of a frame, ours are track ids."""
    a, b = both(theirs, overlap=False)
    assert a.keys() == b.keys() == {"segmentation", "segments_info"}
    assert a["segmentation"].shape == b["segmentation"].shape == SIZE
    assert [s["id"] for s in b["segments_info"]] == [11, 5, 8]
    background = a["segmentation"] == -1
    assert torch.equal(background, b["segmentation"] == -1)
    by_label = {round(s["score"], 3): s for s in a["segments_info"]}
    assert len(by_label) == 3
    for ours in b["segments_info"]:
        other = by_label[round(ours["score"], 3)]
        assert ours.keys() == other.keys()
        assert {type(ours[k]) for k in ("id", "label_id")} == {int} == {type(other[k]) for k in ("id", "label_id")}
        assert (ours["label_id"], ours["was_fused"]) == (other["label_id"], other["was_fused"])
        assert torch.equal(a["segmentation"] == other["id"], b["segmentation"] == ours["id"])


def test_binary_maps_of_masks_that_overlap(theirs):
    a, b = both(theirs, overlap=True, return_binary_maps=True)
    assert a["segmentation"].shape == b["segmentation"].shape == (3, *SIZE)
    order = np.argsort([-s["score"] for s in a["segments_info"]])
    assert torch.equal(a["segmentation"][order.copy()].bool(), b["segmentation"])
    assert b["segmentation"].sum(0).max() > 1


def test_threshold(theirs):
    for threshold, number in ((0.0, 4), (0.5, 3), (0.85, 1), (0.99, 0)):
        a, b = both(theirs, overlap=False, threshold=threshold)
        found = [s for s in a["segments_info"] if s["score"] > 0.25]  # theirs have one entry per query and class
        assert len(found) == len(b["segments_info"]) == number


def test_same_preprocessing():
    """Equal up to rounding, for a size that is a multiple of 32 after resizing: theirs rounds the size, ours pads."""
    config = MDQEConfig(test_shorter_edge=64)
    coarse = torch.randint(0, 256, (1, 3, 10, 15)).float()
    frame = torch.nn.functional.interpolate(coarse, (50, 75), mode="bilinear")[0].byte().permute(1, 2, 0).numpy()
    mean, std = ([v / 255 for v in values] for values in (config.pixel_mean, config.pixel_std))
    size = {"shortest_edge": 64, "longest_edge": config.test_longer_edge}
    theirs = transformers.Mask2FormerImageProcessor(size=size, size_divisor=32, image_mean=mean, image_std=std)
    a = theirs(frame, return_tensors="pt")["pixel_values"]
    b = MDQEImageProcessor(config)(frame)["pixel_values"][0]
    assert a.shape == b.shape == (1, 3, 64, 96)
    assert (a - b).abs().max() <= 1.01 / min(config.pixel_std)
