"""Tracks, scores, labels and masks of whole videos and images equal those of the released code."""

import golden
import numpy as np
import pytest
import torch

from mdqe import VideoInstances
from mdqe.inference import session
from mdqe.inference.postprocess import rank_tracks
from mdqe.inference.tracker import ClipTracker

SCORE_TOLERANCE = 1e-6


@pytest.mark.parametrize("name", ["r50_ovis", "swinl_ovis"])
def test_tracks_and_final_result(name, reference, monkeypatch):
    expected, meta = reference(name), golden.meta(name)
    tracked, filtered = [], []

    class WatchedTracker(ClipTracker):
        def update(self, frame_indices, class_scores, mask_logits, embeddings):
            ids = super().update(frame_indices, class_scores, mask_logits, embeddings)
            filtered.append((class_scores, mask_logits, embeddings))
            tracked.append((list(frame_indices), {int(t): d for d, t in enumerate(ids) if t >= 0}, self.num_tracks))
            return ids

    monkeypatch.setattr(session, "ClipTracker", WatchedTracker)
    result = golden.model(name).segment(expected["frames"].numpy(), multi_label=True)

    assert len(tracked) == len(meta["clips"])
    for (frames, detections, tracks), clip in zip(tracked, meta["clips"], strict=True):
        assert frames == clip["frames"]
        assert detections == dict(zip(clip["track_id"], clip["detection"], strict=True))
        assert tracks == clip["tracks"]
    for i, parts in enumerate(filtered):
        wanted = (f"result{i:03d}.class_scores", f"result{i:03d}.mask_logits", f"result{i:03d}.query_embeds")
        for part, key, tolerance in zip(parts, wanted, (1e-6, 1e-3, 1e-6), strict=True):  # masks are float16
            if key in expected:
                assert golden.relative_error(part, expected[key]) < tolerance, key
        if f"result{i:03d}.scores" in expected:
            assert golden.relative_error(parts[0].amax(1), expected[f"result{i:03d}.scores"]) < 1e-6
    video = meta["video"]
    masks = golden.unpacked(expected["video.masks_packed"], video["mask_shape"])
    assert_same_instances(result.scores, result.labels, result.masks, video["scores"], video["labels"], masks)


@pytest.mark.slow
def test_a_session_gives_the_same_result(reference):
    """It takes frame by frame instead of window by window."""
    expected, video = reference("r50_ovis"), golden.meta("r50_ovis")["video"]
    camera = golden.model("r50_ovis").start(score_threshold=0)
    chunks = [chunk for frame in expected["frames"] for chunk in camera.push(frame)] + camera.flush()
    found = VideoInstances.concatenate(chunks, **rank_tracks(camera.class_scores(), 0, multi_label=True)._asdict())
    masks = golden.unpacked(expected["video.masks_packed"], video["mask_shape"])
    assert_same_instances(found.scores, found.labels, found.masks, video["scores"], video["labels"], masks)


def test_image(reference):
    expected, meta = reference("coco_image"), golden.meta("coco_image")
    model = golden.model("coco_image")
    height, width = meta["mask_shape"][1:]
    result = model.segment_image(expected["frames"][0], output_size=(height, width))
    masks = golden.unpacked(expected["masks_packed"], meta["mask_shape"])
    scores, labels = expected["scores"].tolist(), expected["labels"].tolist()
    assert_same_instances(result.scores, result.labels, result.masks[:, 0], scores, labels, masks)
    order, wanted = np.lexsort((result.scores, result.labels)), np.lexsort((scores, labels))
    np.testing.assert_array_equal(result.boxes[order, 0], expected["boxes_xyxy"].numpy()[wanted])
    with torch.inference_mode():
        output = model(expected["frames"].permute(0, 3, 1, 2)[None])
    assert golden.relative_error(output.layers[-1].class_logits[0].sigmoid(), expected["cls"]) < 1e-6


def assert_same_instances(scores, labels, masks, expected_scores, expected_labels, expected_masks):
    """Equal in any order: scores within 1e-6, labels, and masks with an IoU of at least 0.999 (a few pixels differ)."""
    assert len(scores) == len(expected_scores)
    ours, theirs = np.lexsort((scores, labels)), np.lexsort((expected_scores, expected_labels))
    for a, b in zip(ours, theirs, strict=True):
        assert labels[a] == expected_labels[b]
        assert scores[a] == pytest.approx(expected_scores[b], abs=SCORE_TOLERANCE)
        union = (masks[a] | expected_masks[b]).sum()
        assert union == 0 or (masks[a] & expected_masks[b]).sum() / union >= 0.999
