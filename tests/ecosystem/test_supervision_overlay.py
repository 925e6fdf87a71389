"""Drawing with supervision: masks have the colour of their track, and only masks and labels are drawn."""

import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest

from mdqe import VideoInstances

sv = pytest.importorskip("supervision")

EXAMPLE = Path(__file__).parents[2] / "examples" / "supervision_overlay.py"


@pytest.fixture
def result() -> VideoInstances:
    """Two squares in two frames; the second is absent from frame 1."""
    masks = np.zeros((2, 2, 100, 160), bool)
    masks[0, :, 40:70, 20:50] = True
    masks[1, 0, 50:90, 100:130] = True
    return VideoInstances.from_masks([0.9, 0.8], [1, 0], [7, 3], masks, categories=("cat", "dog"))


def test_detections_are_those_of_the_frame(result):
    first, second = result.to_supervision(0), result.to_supervision(1)
    assert first.tracker_id.tolist() == [7, 3]
    assert first.data["class_name"].tolist() == ["dog", "cat"]
    assert first.xyxy.tolist() == [[20, 40, 50, 70], [100, 50, 130, 90]]
    np.testing.assert_array_equal(first.mask, result.masks[:, 0])
    assert second.tracker_id.tolist() == [7]
    assert sv.Detections.merge([first, second]).tracker_id.tolist() == [7, 3, 7]


def test_overlay(result):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about OpenCV, which may not be installed
        draw = runpy.run_path(str(EXAMPLE))["draw"]
        image = np.full((100, 160, 3), 128, np.uint8)
        drawn = [draw(image, result, t).astype(int) for t in (0, 1)]
    assert (image == 128).all()  # the image of the caller is unchanged
    colour = {track: np.array(sv.ColorPalette.DEFAULT.by_idx(track).as_rgb()) for track in (7, 3)}
    for track, (y, x) in {7: (65, 45), 3: (85, 110)}.items():  # inside each mask, below its label
        assert np.abs(drawn[0][y, x] - (128 + colour[track]) / 2).max() <= 1
    outside = ~result.masks[:, 0].any(0)
    outside[:51] = False  # where labels are
    assert (drawn[0][outside] == 128).all()
    assert (drawn[0][:40, 20:50] == colour[7]).all(-1).any()  # the background of the label, above the box
    assert (drawn[1][51:90, 100:130] == 128).all()  # absent
    np.testing.assert_array_equal(drawn[1][65, 45], drawn[0][65, 45])
