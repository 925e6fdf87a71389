"""From window results to video results: mask resolution, scores over windows, what the benchmark counts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mdqe.inference.postprocess import upsample_masks
from mdqe.inference.windows import add_window, benchmark_pairs, video_scores, window_masks


def test_upsampling_is_linear_between_samples_at_pixel_two():
    logits = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    fine = upsample_masks(logits)
    assert fine.shape == (2, 3, 20, 28)
    y, x = ((np.arange(4 * n) - 2) / 4 for n in (5, 7))
    for mask, wanted in zip(fine.flatten(0, 1), logits.flatten(0, 1), strict=True):
        columns = np.stack([np.interp(x, np.arange(7), row) for row in wanted])  # constant past the ends
        expected = np.stack([np.interp(y, np.arange(5), column) for column in columns.T], axis=1)
        np.testing.assert_allclose(mask, expected, atol=1e-12)


def test_upsampling_by_padding_afterwards_is_the_same():
    logits = torch.randn(2, 3, 6, 4)
    coarse = F.interpolate(
        F.pad(logits, (0, 1, 0, 1), mode="replicate"), size=(25, 17), mode="bilinear", align_corners=True
    )
    expected = F.pad(coarse, (2, 0, 2, 0), mode="replicate")[..., :24, :16]
    torch.testing.assert_close(upsample_masks(logits), expected)


@pytest.mark.parametrize("output_size", [(30, 37), (61, 90), (17, 11), (60, 74)])
def test_masks_are_the_nearest_probabilities_above_half(output_size):
    logits = torch.randn(7, 3, 8, 10)
    probabilities = upsample_masks(logits).sigmoid()[..., :30, :37]
    expected = F.interpolate(probabilities, size=output_size, mode="nearest") > 0.5
    found = list(window_masks(logits, (30, 37), output_size, chunk_pixels=3 * 32 * 40 * 2))
    assert len(found) > 1 and {x.dtype for x in found} == {torch.bool}
    assert torch.equal(torch.cat(found), expected)


def test_a_chunk_holds_one_track_at_least_and_no_more_pixels_than_asked():
    logits = torch.randn(5, 2, 4, 4)
    assert [len(x) for x in window_masks(logits, (16, 16), (16, 16), chunk_pixels=1)] == [1] * 5
    assert [len(x) for x in window_masks(logits, (16, 16), (16, 16), chunk_pixels=2 * 2 * 256)] == [2, 2, 1]
    assert [len(x) for x in window_masks(logits, (16, 16), (32, 32), chunk_pixels=2 * 2 * 1024)] == [2, 2, 1]


@pytest.mark.parametrize("shape", [(0, 5, 8, 8), (3, 0, 8, 8)])
def test_window_without_tracks_or_frames(shape):
    for output_size in ((30, 31), (60, 60)):
        found = torch.cat(list(window_masks(torch.zeros(shape), (30, 31), output_size)))
        assert found.shape == (*shape[:2], *output_size)


def test_frame_larger_than_its_masks():
    with pytest.raises(ValueError, match=r"within the masks' \(32, 32\), got \(33, 32\)"):
        window_masks(torch.zeros(1, 1, 8, 8), (33, 32), (64, 64))


def test_video_score_is_three_quarters_mean_and_a_quarter_maximum():
    windows = [torch.rand(2, 3), torch.rand(2, 3), torch.rand(4, 3), torch.rand(5, 3)]
    sums = None
    for window in windows:
        sums = add_window(sums, window)
    dense = torch.stack([torch.cat([w, torch.zeros(5 - len(w), 3)]) for w in windows])
    torch.testing.assert_close(video_scores(sums), 0.75 * dense.mean(0) + 0.25 * dense.amax(0))
    assert sums.windows == 4
    with pytest.raises(ValueError, match="got scores of 4 after 5"):
        add_window(sums, torch.rand(4, 3))


def test_benchmark_counts_every_pair_above_the_score():
    scores = torch.tensor([[0.5, 0.06, 0.01], [0.05, 0.2, 0.051], [0.3, 0.4, 0.07], [0.08, 0.09, 0.1], [0.11, 0.12, 0]])
    values, tracks, labels = benchmark_pairs(scores)
    assert sorted(map(list, zip(tracks.tolist(), labels.tolist(), strict=True))) == (scores > 0.05).nonzero().tolist()
    assert len(values) == 12 and torch.equal(values, scores[tracks, labels])
    assert torch.equal(values, values.sort(descending=True).values)


def test_benchmark_counts_at_least_ten_pairs_where_there_are_so_many():
    scores = torch.arange(12).reshape(4, 3) / 1000
    _, tracks, labels = benchmark_pairs(scores)
    assert (tracks * 3 + labels).tolist() == list(range(11, 1, -1))
    assert [len(x) for x in benchmark_pairs(torch.zeros(2, 3))] == [6, 6, 6]
    assert [len(x) for x in benchmark_pairs(torch.zeros(0, 3))] == [0, 0, 0]
