"""The tracker of the ONNX example, in NumPy alone: the same tracks as `ClipTracker`'s."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from test_postprocess import filter_clip
from test_tracker import random_clips

from mdqe import ClipTracker

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import numpy_tracker as plain

TOLERANCE = 1e-5  # of sums of float32 in another order


def numpy_tracker(length: int, stride: int, window: int, threshold: float = 0.1) -> plain.NumpyTracker:
    config = {"test_clip_length": length, "clip_stride": stride, "window_length": window, "score_threshold": threshold}
    memory = {"memory_frames": 15, "short_memory_frames": 5}
    return plain.NumpyTracker({**config, **memory, "iou_weight": 1.0, "similarity_weight": 1.0})


def assert_same_window(ours: plain.NumpyTracker, theirs, last: bool) -> None:
    scores, masks, frames = ours.take_window(last)
    for i, row in enumerate(theirs.class_scores.numpy()):
        np.testing.assert_allclose(scores.get(i, np.zeros_like(row)), row, atol=TOLERANCE)
    assert sorted({i for seen in masks.values() for i in seen}) == theirs.track_ids.tolist()
    assert frames == theirs.mask_logits.shape[1]
    for row, i in enumerate(theirs.track_ids.tolist()):
        for t in range(frames):
            want = theirs.mask_logits[row, t].numpy()
            got = masks.get(theirs.first_frame + t, {}).get(i, np.zeros_like(want))
            np.testing.assert_allclose(got, want, atol=TOLERANCE * 20)


@pytest.mark.parametrize("seed", range(20))
def test_tracks_of_random_clips(seed):
    length, stride, window = ((4, 1, 10), (3, 2, 7), (1, 1, 5), (5, 3, 30))[seed % 4]
    ours, theirs = numpy_tracker(length, stride, window), ClipTracker(length, stride, window)
    for indices, *detections in random_clips(seed, 40, length, stride):
        scores, masks, embeddings = (x.float() for x in detections)
        while indices[0] >= theirs.window_start + window:
            assert_same_window(ours, theirs.take_window(), last=False)
        clip = plain.Detections(scores.numpy(), masks.numpy(), embeddings.numpy())
        assert ours.update(indices[0], clip) == theirs.update(indices, scores, masks, embeddings).tolist()
    assert_same_window(ours, theirs.take_window(last=True), last=True)
    assert ours.last_seen


def test_long_reference_video(shared):
    expected = json.loads((shared / "golden/tracker_long.json").read_text())
    tensors = load_file(shared / "golden/tracker_long.safetensors")
    names = ("test_clip_length", "clip_stride", "window_length", "score_threshold")
    tracker = numpy_tracker(*(expected[name] for name in names))
    for i, clip in enumerate(expected["clips"]):
        if clip["frames"][0] == tracker.window_start + tracker.window:
            tracker.take_window(last=False)
        parts = (tensors[f"clip{i:03d}.{name}"].astype(np.float32) for name in plain.Detections._fields)
        ids = tracker.update(clip["frames"][0], plain.Detections(*parts))
        kept = {row: track for row, track in enumerate(ids) if track >= 0}
        assert kept == dict(zip(clip["detection"], clip["track_id"], strict=True)), f"clip {i}"
        assert len(tracker.last_seen) == clip["tracks"]


@pytest.mark.parametrize("frames", [1, 4, 6])
@pytest.mark.parametrize("seed", range(5))
def test_filtering(frames, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(30, 3, generator=generator) ** 4
    coefficients, embeddings = torch.randn(30, 4, generator=generator), torch.randn(30, 8, generator=generator)
    embeddings[20:] = embeddings[:10] + 1e-3  # repeats
    features = torch.randn(4, frames, 12, 16, generator=generator)
    coefficients[5] = 0  # an empty mask
    options = {"score_threshold": 0.05, "max_detections": 12}
    wanted = filter_clip(scores, coefficients, embeddings, features, **options)
    found = {"class_scores": scores, "mask_coefficients": coefficients, "embeddings": embeddings}
    arrays = {name: x.numpy() for name, x in found.items()}
    got = plain.filter_clip(arrays, features.transpose(0, 1).contiguous().numpy(), **options)
    assert 0 < len(wanted.class_scores) < 30
    for name in plain.Detections._fields:
        np.testing.assert_allclose(getattr(got, name), getattr(wanted, name).numpy(), atol=TOLERANCE, err_msg=name)
