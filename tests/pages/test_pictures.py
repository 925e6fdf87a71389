"""Prediction beside truth: the pictures show the masks they are of."""

import base64
import io

import numpy as np
from clips_to_show import FRAMES, SIZE, predicted_masks, truth_masks

from mdqe.pages import pictures
from mdqe.pages.pictures import GROUND, WIDTH, compare_frames
from mdqe.pages.shown import read_shown
from mdqe.video.overlay import track_color


def opened(uri: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))).astype(int)


def test_masks_stand_where_they_are(small_set):
    shown = read_shown(small_set[1], small_set[0], "b")
    pairs = compare_frames(shown.sides, SIZE, range(FRAMES), None)
    scale = WIDTH / SIZE[1]
    for t, pair in enumerate(pairs):
        assert pair.frame == t
        for uri, mask, number in ((pair.prediction, predicted_masks()[t], 3), (pair.truth, truth_masks()[t], 13)):
            image = opened(uri)
            assert image.shape == (round(SIZE[0] * scale), WIDTH, 3)
            if mask is None:
                assert np.abs(image - GROUND).max() < 12, "nothing in it"
                continue
            rows, columns = np.nonzero(mask)
            y, x = int((rows.mean() + 0.5) * scale), int((columns.mean() + 0.5) * scale)
            tint = np.array(GROUND) * 0.58 + np.array(track_color(number)) * 0.42
            assert np.abs(image[y - 8 : y + 8, x - 8 : x + 8].mean(axis=(0, 1)) - tint).max() < 8
            assert np.abs(image[-20:, -40:] - GROUND).max() < 12


def test_frames_lie_under_them(small_set):
    shown = read_shown(small_set[1], small_set[0], "b")
    asked = []

    def load(t):
        asked.append(t)
        return np.full((80, 120, 3), 200, np.uint8)  # larger than the masks

    pairs = compare_frames(shown.sides, SIZE, [0, 3], load)
    assert asked == [0, 3] and np.abs(opened(pairs[1].truth) - 200).max() < 8


def test_labels_are_those_of_the_overlays(small_set, monkeypatch):
    shown, drawn = read_shown(small_set[1], small_set[0], "a"), []
    monkeypatch.setattr(pictures, "draw_names", lambda image, names, *rest: drawn.append(sorted(names)) or image)
    compare_frames(shown.sides, SIZE, [0], None)
    assert drawn == [["boat #4", "boat #5", "fish #3"], ["boat #12", "fish #11"]]
