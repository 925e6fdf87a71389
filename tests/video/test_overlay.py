"""Drawing: distinguishable colours, marks in their places, and contact sheets."""

import time

import numpy as np
import pytest
from PIL import Image

from mdqe.results.instances import VideoInstances
from mdqe.video import overlay
from mdqe.video.overlay import draw_instances, draw_labels, draw_result, text_color, track_color

GROUNDS = [0, 128, 255]


def linear_rgb(color) -> np.ndarray:
    value = np.asarray(color, float) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one, other) -> float:
    """The contrast ratio of WCAG 2."""

    low, high = sorted(float(linear_rgb(color) @ [0.2126, 0.7152, 0.0722]) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(color) -> np.ndarray:
    """CIE L*a*b*, in which a distance of about 2 is just visible."""
    linear = linear_rgb(color)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(matrix @ linear / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def oklab(color) -> np.ndarray:
    """Björn Ottosson's Oklab, more uniform than CIE L*a*b* in blue; a distance of about 0.02 is just visible."""
    linear = linear_rgb(color)
    cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.68069955, 0.10739696],
        [0.08830246, 0.28171884, 0.62997870],
    ]
    mix = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.9779985, -2.4285922, 0.4505937],
        [0.02590404, 0.78277177, -0.80867577],
    ]
    return np.array(mix) @ np.cbrt(np.array(cones) @ linear)


def disc(size, y, x, radius) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def box_of(mask) -> list[int]:
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_colours_are_stable_and_distinguishable():
    assert track_color(5) == track_color(5)
    colors = [lab(track_color(i)) for i in range(12)]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(colors) for b in colors[:i]]
    assert min(distances) > 15
    for i in range(200):  # successive ids, which are often close in the image
        assert np.linalg.norm(lab(track_color(i)) - lab(track_color(i + 1))) > 40


def test_no_two_of_many_tracks_look_alike():
    colors = [oklab(track_color(i)) for i in range(48)]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(colors) for b in colors[:i]]
    assert min(distances) > 0.04


def test_colours_are_visible_on_light_and_on_dark_images():
    for i in range(300):
        assert contrast(track_color(i), (255, 255, 255)) > 2
        assert contrast(track_color(i), (0, 0, 0)) > 3.5


def test_labels_are_readable_on_every_colour():
    for i in range(300):
        assert contrast(track_color(i), text_color(track_color(i))) > 4.5


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_mask_is_tinted_and_outlined_and_nothing_else(ground):
    image = np.full((60, 80, 3), ground, np.uint8)
    mask = disc((60, 80), 30, 40, 12)
    drawn = draw_instances(image, mask[None], np.array([box_of(mask)], np.float32), [3])
    color = np.array(track_color(3))
    assert np.array_equal(drawn[~mask], image[~mask])
    assert np.abs(drawn[30, 40] - (ground * (1 - overlay.FILL) + color * overlay.FILL)).max() <= 1
    inside = disc((60, 80), 30, 40, 10)
    assert (drawn[inside] == drawn[30, 40]).all()
    for y, x in [(30, 29), (30, 51), (19, 40), (41, 40)]:
        assert drawn[y, x].tolist() == color.tolist()
    assert (image == ground).all()


def test_a_small_instance_is_drawn_over_a_large_one():
    size = (60, 80)
    large, small = disc(size, 30, 40, 25), disc(size, 30, 40, 6)
    for order in ([large, small], [small, large]):
        masks = np.stack(order)
        ids = [1 if m.sum() > 500 else 2 for m in masks]
        drawn = draw_instances(np.zeros((*size, 3), np.uint8), masks, np.array([box_of(m) for m in masks]), ids)
        assert drawn[30, 35].tolist() == list(track_color(2))


def test_a_mask_that_touches_the_border_is_outlined_there():
    mask = np.zeros((40, 40), bool)
    mask[:, :20] = True
    drawn = draw_instances(np.zeros((40, 40, 3), np.uint8), mask[None], np.array([[0, 0, 20, 40]]), [0])
    assert drawn[20, 0].tolist() == list(track_color(0))
    assert drawn[20, 19].tolist() == list(track_color(0))


def test_labels_stay_inside_and_apart():
    size = (120, 200)
    masks = np.stack([disc(size, 60, 5, 4), disc(size, 3, 196, 3), disc(size, 60, 8, 4), disc(size, 117, 100, 3)])
    image = np.full((*size, 3), 128, np.uint8)
    names = ("dog", "cat", "cow")
    result = VideoInstances.from_masks([0.91, 0.8, 0.77, 0.5], [0, 1, 0, 2], range(4), masks[:, None], categories=names)
    plain, named = draw_result(image, result, 0, labels=False), draw_result(image, result, 0)
    for i in range(4):
        painted = (named == track_color(i)).all(axis=2) & ~(plain == track_color(i)).all(axis=2)
        left, top, right, bottom = box_of(painted)
        assert right - left > 40
        assert bottom - top >= 11
        # text covers part of the background, other labels cover none of it
        assert painted[top:bottom, left:right].mean() > 0.5


def drawn_sizes(height: int) -> dict[str, int]:
    """Heights in pixels of what is drawn on a frame of 16:9: the label, the outline, and the dot of a query."""
    size = (height, height * 16 // 9)
    mask = np.zeros((1, 1, *size), bool)
    mask[..., height // 2 : height // 4 * 3, height // 2 : height] = True
    result = VideoInstances.from_masks([0.9], [0], [3], mask, categories=("dog",))
    image = np.zeros((*size, 3), np.uint8)
    plain, named = draw_result(image, result, 0, labels=False), draw_result(image, result, 0)
    label = np.flatnonzero((named != plain).any(axis=(1, 2)))
    column = (plain[:, height * 3 // 4] == track_color(3)).all(axis=1)
    dots = overlay.draw_queries(image, np.array([[0.5, 0.5]]), np.array([3]))
    return {"label": len(label), "outline": int(column.sum()) // 2, "dot": int((dots != 0).any(axis=(1, 2)).sum())}


def test_marks_scale_with_the_frame():
    normal, large = drawn_sizes(360), drawn_sizes(2160)
    assert {name: large[name] / normal[name] for name in normal} == pytest.approx(
        {"label": 6, "outline": 6, "dot": 6}, rel=0.2
    )
    assert 0.035 < normal["label"] / 360 < 0.06
    assert 8 <= drawn_sizes(64)["label"] < 16
    assert drawn_sizes(120)["label"] / 120 < 0.12, "on a small frame, labels are readable and cover little"


def test_labels_name_category_track_and_score(monkeypatch):
    drawn = []
    monkeypatch.setattr(overlay, "draw_names", lambda image, names, *rest: drawn.extend(names) or image)
    masks = np.stack([disc((48, 64), 24, 20, 8), disc((48, 64), 24, 44, 12)])[:, None]
    result = VideoInstances.from_masks([0.9, 0.456], [0, 1], [3, 12], masks, categories=("disc", "star"))
    draw_labels(np.zeros((48, 64, 3), np.uint8), result, 0)
    assert drawn == ["star #12 0.46", "disc #3 0.90"], "small instances last"


def test_a_frame_of_a_result():
    size = (48, 64)
    masks = np.zeros((2, 3, *size), bool)
    masks[0, 1] = disc(size, 24, 20, 8)
    masks[1, 2] = disc(size, 24, 44, 8)
    result = VideoInstances.from_masks([0.9, 0.8], [0, 0], [4, 5], masks, categories=("dog",))
    image = np.full((*size, 3), 90, np.uint8)
    assert np.array_equal(draw_result(image, result, 0), image)
    drawn = draw_result(image, result, 1, labels=False)
    assert np.array_equal((drawn != image).any(axis=2), masks[0, 1])
    assert np.array_equal(draw_labels(drawn, result, 1), draw_result(image, result, 1))
    assert np.array_equal(draw_labels(drawn, result, 0), drawn)
    with pytest.raises(ValueError, match="masks are"):
        draw_result(image[:40], result, 1)


def test_queries_are_dots_in_the_colour_of_their_track():
    image = np.full((100, 200, 3), 90, np.uint8)
    points = np.array([[0.25, 0.5], [0.75, 0.5], [1.1, 0.5], [0.5, -0.1]])
    drawn = overlay.draw_queries(image, points, np.array([7, -1, 3, 3]))
    assert drawn[50, 50].tolist() == list(track_color(7))
    assert drawn[50, 150].tolist() == [150, 150, 150]
    changed = (drawn != image).any(axis=2)
    assert changed[:, :100].sum() > 3 * changed[:, 100:].sum() > 0
    assert not (drawn == track_color(3)).all(axis=2).any()


@pytest.mark.parametrize("ground", GROUNDS)
def test_activation_is_heat_that_rises(ground):
    image = np.full((64, 96, 3), ground, np.uint8)
    ramp = np.linspace(0, 1, 12)[None].repeat(8, axis=0)
    drawn = overlay.draw_activation(image, ramp)
    assert (drawn.dtype, drawn.shape) == (np.uint8, image.shape)
    hot, cold = drawn[32, 92].astype(int), drawn[32, 3].astype(int)
    assert hot[0] - hot[2] > 40  # yellow
    assert np.ptp(cold) < 12  # still grey
    warmth = drawn[32, :, 0].astype(int) - drawn[32, :, 2]
    assert warmth[80] > warmth[50] > warmth[10]


def test_drawing_is_fast():
    size = (720, 1280)
    masks = np.stack([disc(size, 100 + 50 * i, 120 + 100 * i, 90) for i in range(10)])
    result = VideoInstances.from_masks([0.93] * 10, [0] * 10, range(10), masks[:, None], categories=("motorcycle",))
    image = np.full((*size, 3), 80, np.uint8)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        draw_result(image, result, 0)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.3  # measured: 0.03 s


def test_chosen_frames_are_evenly_spaced():
    assert overlay.choose_frames(100, 4) == [0, 33, 66, 99]
    assert overlay.choose_frames(3) == [0, 1, 2]
    assert overlay.choose_frames(1) == [0]
    assert overlay.choose_frames(0) == []
    assert len(overlay.choose_frames(1000)) == 12


@pytest.mark.parametrize(("size", "columns"), [((90, 160), 4), ((160, 90), 6), ((900, 1600), 4)])
def test_every_frame_is_on_the_sheet_in_its_place(size, columns):
    images = [np.full((*size, 3), 20 * (i + 1), np.uint8) for i in range(7)]
    sheet = overlay.contact_sheet(images, [f"frame {i}" for i in range(7)])
    assert sheet.shape[1] <= 1600
    wide = min(size[1], (1600 - 8) // columns - 8)
    high = round(size[0] * wide / size[1])
    line = (sheet.shape[0] - 8) // (-(-7 // columns)) - high - 8
    for i in range(7):
        top, left = 8 + i // columns * (high + line + 8), 8 + i % columns * (wide + 8)
        assert (sheet[top : top + high, left : left + wide] == 20 * (i + 1)).all()
        caption = sheet[top + high : top + high + line, left : left + wide]
        assert caption.max() > 150


def test_a_png_file_is_complete_or_absent(tmp_path):
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    overlay.save_png(image, tmp_path / "x.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), image)
    with pytest.raises(OSError, match="missing"):
        overlay.save_png(image, tmp_path / "missing" / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
