"""Preprocessing of frames: sizes, resizing, normalisation, padding, and invalid frames."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mdqe import MDQEConfig
from mdqe.modeling.preprocess import PADDING, as_frame, normalize, padded_size, resize, resized_size


@pytest.mark.parametrize(
    ("size", "shorter", "longer", "expected"),
    [
        ((480, 640), 360, 1333, (360, 480)),
        ((640, 480), 360, 1333, (480, 360)),
        ((100, 1000), 360, 1333, (133, 1333)),  # limited by the longer edge
        ((1080, 1920), 360, 1333, (360, 640)),
        ((1080, 1919), 360, 1333, (360, 640)),  # 639.67
        ((7, 9), 360, 1333, (360, 463)),  # 462.86
        ((7, 9), None, 8, (7, 9)),
        ((1, 4000), 360, 1333, (1, 1333)),  # at least one pixel
    ],
)
def test_resized_size(size, shorter, longer, expected):
    assert resized_size(size, shorter, longer) == expected


@given(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), st.integers(1, 1200), st.integers(1, 2000))
def test_resized_size_keeps_the_aspect_ratio_and_the_limits(size, shorter, longer):
    """The edges are rounded to the nearest pixel of the largest scale within both limits, in exact arithmetic."""
    scale = min(Fraction(shorter, min(size)), Fraction(longer, max(size)))
    for edge, resized in zip(size, resized_size(size, shorter, longer), strict=True):
        assert abs(resized - edge * scale) <= Fraction(1, 2) + Fraction(1, 10**6) or resized == 1


@pytest.mark.parametrize("size", [(1, 1), (32, 33), (64, 96), (95, 97), (360, 640)])
def test_padding_fills_whole_cells_and_no_more(size):
    height, width = padded_size(size)
    for edge, padded in zip(size, (height, width), strict=True):
        assert padded % PADDING == 0
        assert 0 <= padded - edge < PADDING


def test_normalize_pixel_by_pixel():
    frames = torch.randint(0, 256, (2, 3, 5, 40), dtype=torch.uint8)
    config = MDQEConfig()
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (config.pixel_mean, config.pixel_std))
    out = normalize(frames, mean, std)
    assert (out.shape, out.dtype) == ((2, 3, 32, 64), torch.float64)
    for c in range(3):
        for y in range(5):
            for x in range(40):
                expected = (int(frames[1, c, y, x]) - config.pixel_mean[c]) / config.pixel_std[c]
                assert float(out[1, c, y, x]) == pytest.approx(expected, rel=1e-12)
    out[..., :5, :40] = 0
    assert not out.any()  # zeros on the right and at the bottom


def test_resize_is_antialiased_bilinear():
    frames = torch.randint(0, 256, (2, 3, 37, 50), dtype=torch.uint8)
    out = resize(frames, (20, 31))
    image = Image.fromarray(frames[1].permute(1, 2, 0).numpy()).resize((31, 20), Image.Resampling.BILINEAR)
    difference = out[1].permute(1, 2, 0).int() - torch.from_numpy(np.array(image)).int()
    assert difference.abs().max() <= 1  # of 255: both round
    assert resize(frames, (37, 50)) is frames


def test_frames_of_many_types():
    """Flipped and read-only arrays, tensors and images become the same tensor, without a warning."""
    array = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    read_only = array.copy()
    read_only.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames = [
            array, torch.from_numpy(array), read_only, array[::-1].copy()[::-1], array[..., ::-1].copy()[..., ::-1],
            np.asfortranarray(array), Image.fromarray(array),
        ]  # fmt: skip
        for frame in frames:
            assert torch.equal(as_frame(frame, 0), torch.from_numpy(array))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 5), np.uint8), r"frame 7 is \(4, 5\) uint8, expected \(height, width, 3\) uint8"),
        (np.zeros((4, 5, 4), np.uint8), r"frame 7 is \(4, 5, 4\) uint8"),
        (np.zeros((1, 4, 5, 3), np.uint8), r"frame 7 is \(1, 4, 5, 3\) uint8"),
        (np.zeros((4, 5, 3), np.float32), r"frame 7 is \(4, 5, 3\) float32, expected \(height, width, 3\) uint8"),
        (torch.zeros(4, 5, 3, dtype=torch.int64), r"frame 7 is \(4, 5, 3\) int64"),
        (torch.zeros(4, 5, 3, dtype=torch.bfloat16), r"frame 7 is \(4, 5, 3\) bfloat16"),
        (np.zeros((0, 5, 3), np.uint8), r"frame 7 is empty: \(0, 5, 3\)"),
        (np.zeros((4, 6, 3), np.uint8), "frame 7 is 6x4, the first one is 5x4"),
        ("frame.png", r"frame 7 is a str, expected \(height, width, 3\) uint8"),
        (None, "frame 7 is a NoneType, expected"),
    ],
)
def test_invalid_frames(frame, message):
    with pytest.raises(ValueError, match=message):
        as_frame(frame, 7, (4, 5))
