"""Scenes in which shapes hide others completely, and the statistics of occlusion."""

import hashlib
import math

import numpy as np
import pytest

from mdqe.data.occlusion import OVIS, occlusion_shares, occlusion_table
from mdqe.data.scene import DIFFICULTIES, Difficulty, draw_scene
from mdqe.data.synthetic import draw_video
from mdqe.data.synthetic_files import document_of

HALF = (0.75, 0.5)
FRAMES = 48
GRID = 14  # cells along each edge in the models of the paper, of 196 queries
DIGEST = "6ffeb08fd54c7680acaefd669ee59a1bf896a22354ac043727d290e1073f2a8a"


def digest() -> str:
    drawing = draw_video(2024, frames=2, size=(96, 144), difficulty="occluded", start=21, scene_frames=FRAMES)
    total = hashlib.sha256(drawing.frames.tobytes())
    total.update(np.packbits(drawing.masks).tobytes())
    return total.hexdigest()


def test_scenes_have_the_published_bytes():
    assert digest() == DIGEST


def test_shapes_hide_others_and_are_seen_again():
    """Most shapes disappear behind another one for several frames, between frames in which they are mostly visible."""
    lost, longest, count = 0, [], 0
    for index in range(4):
        hidden = draw_video(1, index, frames=FRAMES, size=(48, 72), difficulty="occluded").hidden
        for degrees in hidden:
            gone = np.flatnonzero(degrees == 1)
            runs = np.split(gone, np.flatnonzero(np.diff(gone) > 1) + 1) if len(gone) else []
            runs = [run for run in runs if len(run) >= 3]
            around = [(degrees[: run[0]], degrees[run[-1] + 1 :]) for run in runs]
            lost += any((a < 0.9).any() and (b < 0.9).any() for a, b in around)
            longest.append(max(map(len, runs), default=0))
            count += 1
    assert lost > 0.4 * count
    assert 5 < np.median([run for run in longest if run]) < 20


def test_shapes_look_alike_and_cross_several_cells_within_a_clip():
    moved, alike = [], []
    for index in range(20):
        scene = draw_scene(1, index, FRAMES, HALF, DIFFICULTIES["occluded"])
        assert 6 <= len(scene.bodies) <= 9 and sorted(scene.depths) == list(range(len(scene.bodies)))
        alike.append(len({body.label for body in scene.bodies}) == 1)
        camera = scene.camera
        assert np.ptp(camera.x) > 0.02 and np.ptp(camera.zoom) > 0
        for body in scene.bodies:
            x = (body.x - camera.x) * camera.zoom * GRID / (2 * HALF[0])
            y = (body.y - camera.y) * camera.zoom * GRID / (2 * HALF[1])
            moved += np.hypot(x[3:] - x[:-3], y[3:] - y[:-3]).tolist()  # over a clip of four frames
    assert all(alike) and np.median(moved) > 2 and np.percentile(moved, 25) > 1.2


@pytest.mark.parametrize("hiding", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_share_of_the_shapes_in_groups(hiding):
    """Shapes of a group have the same outline in all frames."""
    for index in range(10):
        scene = draw_scene(3, index, FRAMES, HALF, Difficulty((8, 8), 1.0, hiding=hiding))
        outlines = [body.bends.tobytes() for body in scene.bodies]
        sizes = [outlines.count(one) for one in outlines]
        assert set(sizes) <= {1, 2, 3}
        assert sum(size > 1 for size in sizes) == 8 * hiding


def test_occlusion_beside_that_of_ovis():
    """Closer to OVIS than the standard set at the same length."""
    shares = {
        name: occlusion_shares(
            document_of(draw_video(1, i, frames=FRAMES, size=(48, 72), difficulty=name) for i in range(3))
        )
        for name in ("standard", "occluded")
    }

    def distance(name: str) -> float:
        return sum(abs(a - b) for a, b in zip(shares[name][:3], OVIS[:3], strict=True))

    assert distance("occluded") < 0.6 * distance("standard")
    assert shares["occluded"].severe_once > 0.7 and shares["occluded"].gone > 0.4 > 0.1 > shares["standard"].gone
    assert occlusion_table({**shares, "OVIS": OVIS}).splitlines()[-1].split() == [
        "OVIS", "18.2", "55.5", "26.3", "80.2", "2.0", "-",
    ]  # fmt: skip


def test_shares_are_counted():
    def one(text: str, degrees: list | None = None) -> dict:
        """An annotation by letters: n, s, v (labels), lower case if visible; "-" where it has no label and no mask."""
        names = {"n": "no_occlusion", "s": "slight_occlusion", "v": "severe_occlusion"}
        masks = [{} if letter.islower() else None for letter in text]
        labels = [names.get(letter.lower()) for letter in text]
        return {"segmentations": masks, "occlusion": labels} | ({"occlusion_degree": degrees} if degrees else {})

    shares = occlusion_shares({"annotations": [one("nnss"), one("nV-n"), one("----"), one("nnnv")]})
    assert shares[:5] == (7 / 10, 2 / 10, 1 / 10, 1 / 3, 1 / 3)
    assert math.isnan(shares.gone)
    hidden = [0, 1, 1, 1, 0]
    outside = [0, None, None, None, 0]
    document = {"annotations": [one("nVVVn", hidden), one("n---n", outside), one("VVVnn", [1, 1, 1, 0, 0])]}
    assert occlusion_shares(document).gone == 1 / 3
    with pytest.raises(ValueError, match="no annotation has labels of occlusion"):
        occlusion_shares({"annotations": [one("--")]})
