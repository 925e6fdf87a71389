"""Post-processing: filtering of clips against a plain transcription of its rules, masks, scores of a video."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mdqe.inference.postprocess import (
    ClipDetections,
    ScoreSums,
    filter_clips,
    rank_tracks,
    upsample_masks,
    window_masks,
)


def filter_clip(*tensors, **options) -> ClipDetections:
    """`filter_clips` for one clip, without the first axis."""
    return filter_clips(*(x[None] for x in tensors), **options)[0]


def slow_filter(class_scores, coefficients, embeddings, features, threshold, most):
    """The rules one query at a time, in NumPy: indices kept, best first, and their class scores."""
    scores, coefficients, embeddings, features = (
        x.double().numpy() for x in (class_scores, coefficients, embeddings, features)
    )
    queries = sorted(range(len(scores)), key=lambda q: -scores[q].max())
    queries = [q for q in queries if scores[q].max() >= threshold] or queries[:1]
    cosine = lambda a, b: a @ b / np.sqrt((a @ a) * (b @ b))  # noqa: E731
    distinct = [
        q for i, q in enumerate(queries) if all(cosine(embeddings[q], embeddings[b]) < 0.99 for b in queries[:i])
    ][:most]
    masks = {q: np.einsum("m,mthw->thw", coefficients[q], features) for q in distinct}
    soft = {q: 1 / (1 + np.exp(-masks[q])) for q in distinct if (masks[q] > 0).any()}
    thin = {q: (s[::2] if len(s) >= 5 else s)[:, ::2, ::2] for q, s in soft.items()}
    kept = {}
    for i, q in enumerate(soft):
        hard = thin[q] > 0.5
        largest = 0
        for better in list(soft)[:i]:
            intersection = (thin[better] * hard).sum()
            largest = max(largest, intersection / (thin[better].sum() + hard.sum() - intersection + 1))
        if largest < 0.5:
            foreground = soft[q] > 0.5
            kept[q] = scores[q] * (1 - largest) * soft[q][foreground].sum() / (foreground.sum() + 1e-6)
    order = sorted(kept, key=lambda q: -kept[q].max())
    order = [q for q in order if kept[q].max() > threshold] or order[:1]
    return order, [kept[q] for q in order], masks


def clip(seed: int, frames: int = 4, queries: int = 60):
    """Queries whose masks overlap, with near-duplicate embeddings and empty masks, at float64."""
    generator = torch.Generator().manual_seed(seed)
    noise = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    y, x = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 16), indexing="ij")
    base = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y]).double()  # coefficients draw conics
    features = base[:, None] + 0.02 * noise(6, frames, 12, 16)
    centres = torch.randint(0, queries // 4, (queries,), generator=generator)
    coefficients = (noise(queries // 4, 6)[centres] + 0.3 * noise(queries, 6)) * 4
    coefficients[::9] = torch.tensor([-9.0, 0, 0, 0, 0, 0]).double()  # nowhere positive
    coefficients[3::5, 0] -= 3  # small masks
    spread = torch.rand(queries, 1, generator=generator, dtype=torch.float64) * 0.25
    embeddings = noise(queries // 4, 16)[centres] + spread * noise(queries, 16)
    scores = torch.rand(queries, 5, generator=generator, dtype=torch.float64) ** 3
    return scores, coefficients, embeddings, features


@pytest.mark.parametrize("frames", [1, 4, 5, 6])
@pytest.mark.parametrize("seed", range(8))
def test_equals_the_rules_one_by_one(seed, frames):
    scores, coefficients, embeddings, features = clip(seed, frames)
    most = 60 if seed % 2 else 12
    order, expected, masks = slow_filter(scores, coefficients, embeddings, features, 0.2, most)
    assert 1 < len(order) < 60
    found = filter_clip(scores, coefficients, embeddings, features, score_threshold=0.2, max_detections=most)
    assert torch.equal(found.embeddings, embeddings[order])
    np.testing.assert_allclose(found.class_scores, expected, rtol=1e-10)
    np.testing.assert_allclose(found.mask_logits, np.stack([masks[q] for q in order]), atol=1e-10)


@pytest.mark.parametrize("frames", [4, 5])
def test_clips_together_are_the_clips_one_by_one(frames):
    *queries, features = (
        torch.stack(parts) for parts in zip(*(clip(seed, frames + 3) for seed in range(4)), strict=True)
    )
    features[1:3] = -features[1:3].abs()  # clips with few or no masks
    features = features[:, :, :frames]  # a view, as of clips that share frames
    queries[0][3] *= 0.01  # a clip whose queries are all below the threshold
    options = {"score_threshold": 0.2, "max_detections": 20}
    together = filter_clips(*queries, features, **options)
    numbers = [len(found.class_scores) for found in together]
    assert numbers[3] <= 1 < numbers[0] and len(set(numbers)) >= 3
    for i, found in enumerate(together):
        for got, wanted in zip(found, filter_clip(*(x[i] for x in queries), features[i], **options), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_keeps_its_type_and_nearly_the_scores(dtype):
    inputs = [x.to(dtype) for x in clip(1)]
    expected = filter_clip(*(x.double() for x in inputs), score_threshold=0.2, max_detections=60)
    found = filter_clip(*inputs, score_threshold=0.2, max_detections=60)
    assert {x.dtype for x in found} == {dtype}
    assert len(found.class_scores) == len(expected.class_scores)
    torch.testing.assert_close(found.class_scores.double(), expected.class_scores, rtol=0, atol=1e-2)


def stripes(*ranges: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coefficients, embeddings and features of queries whose masks are columns [a, b) of 16, certain, of one frame."""
    features = torch.full((len(ranges), 1, 8, 16), -20.0)
    for q, (a, b) in enumerate(ranges):
        features[q, :, :, a:b] = 20
    return torch.eye(len(ranges)), torch.eye(len(ranges)), features


def keep(scores: list[float], *arrays: torch.Tensor, threshold: float = 0.1, most: int = 10) -> ClipDetections:
    return filter_clip(torch.tensor(scores)[:, None], *arrays, score_threshold=threshold, max_detections=most)


def test_best_query_stays_below_the_threshold():
    found = keep([0.02, 0.05, 0.01], *stripes((0, 4), (4, 8), (8, 12)))
    torch.testing.assert_close(found.class_scores, torch.tensor([[0.05]]))
    assert found.embeddings.tolist() == [[0, 1, 0]]


def test_score_at_the_threshold_enters_but_must_be_above_it_to_leave():
    found = keep([0.5, 0.25], *stripes((0, 4), (8, 12)), threshold=0.25)
    assert len(found.class_scores) == 1  # 0.25 of a perfect mask is still not above 0.25


def test_chain_of_duplicates_keeps_only_the_first():
    coefficients, _, features = stripes((0, 4), (4, 8), (8, 12))
    angle = torch.tensor([0.0, 0.1, 0.2])  # cosines 0.995 to the next, 0.980 from first to last
    embeddings = torch.stack([angle.cos(), angle.sin()], dim=1)
    found = keep([0.9, 0.8, 0.7], coefficients, embeddings, features)
    assert found.class_scores.flatten().tolist() == pytest.approx([0.9])  # the last repeats a dropped query


def test_limit_counts_distinct_queries_before_their_masks():
    coefficients, embeddings, features = stripes((0, 0), (4, 8), (8, 12))
    found = keep([0.9, 0.8, 0.7], coefficients, embeddings, features, most=2)
    assert found.class_scores.flatten().tolist() == pytest.approx([0.8])  # the empty best took a place


def test_all_masks_empty():
    found = keep([0.9, 0.8], *stripes((0, 0), (0, 0)))
    assert [tuple(x.shape) for x in found] == [(0, 1), (0, 1, 8, 16), (0, 2)]


def test_overlap_lowers_the_score_and_half_of_it_drops():
    found = keep([0.9, 0.8], *stripes((0, 8), (4, 12)))  # 8 of 24 pixels after thinning, + 1
    assert found.class_scores.flatten().tolist() == pytest.approx([0.9, 0.8 * (1 - 8 / 25)], rel=1e-5)
    assert len(keep([0.9, 0.8], *stripes((0, 8), (2, 8))).class_scores) == 1
    coefficients, embeddings, features = stripes((0, 8), (0, 14))  # on one thinned row 4 of 7 pixels, + 1: exactly half
    assert len(keep([0.9, 0.8], coefficients, embeddings, 5 * features[:, :, :2]).class_scores) == 1
    # Suppressed by the second, which the first suppresses: the third goes as well.
    chain = keep([0.9, 0.8, 0.7], *stripes((0, 10), (2, 12), (4, 14)))
    assert chain.embeddings.tolist() == [[1, 0, 0]]


def test_unsure_mask_lowers_the_score():
    coefficients, embeddings, features = stripes((0, 8))
    features[features > 0] = np.log(3)  # probability 3/4
    assert keep([0.8], coefficients, embeddings, features).class_scores.item() == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"class_scores": torch.ones(1, 3)},
            r"must be \(B, Q, K\), .* got \(1, 3\), \(1, 3, 4\), \(1, 3, 6\), \(1, 4, 1, 8, 8\)",
        ),
        ({"class_scores": torch.ones(1, 0, 2)}, r"got \(1, 0, 2\)"),
        ({"mask_features": torch.ones(1, 4, 8, 8)}, r"and \(B, M, T, h, w\) .*\(1, 4, 8, 8\)"),
        ({"mask_coefficients": torch.ones(1, 2, 4)}, r"got \(1, 3, 2\), \(1, 2, 4\)"),
        ({"mask_coefficients": torch.ones(1, 3, 5)}, r"got \(1, 3, 2\), \(1, 3, 5\)"),
        ({"class_scores": torch.ones(2, 3, 2)}, r"got \(2, 3, 2\), \(1, 3, 4\)"),
        ({"mask_features": torch.ones(2, 4, 1, 8, 8)}, r"\(2, 4, 1, 8, 8\)"),
        ({"max_detections": 0}, "max_detections must be at least 1, got 0"),
    ],
)
def test_bad_clips(change, message):
    good = {
        "class_scores": torch.ones(1, 3, 2),
        "mask_coefficients": torch.ones(1, 3, 4),
        "embeddings": torch.ones(1, 3, 6),
        "mask_features": torch.ones(1, 4, 1, 8, 8),
        "score_threshold": 0.1,
        "max_detections": 10,
    }
    with pytest.raises(ValueError, match=message):
        filter_clips(**{**good, **change})


def test_upsampling_is_linear_between_samples_at_pixel_two():
    logits = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    fine = upsample_masks(logits)
    assert fine.shape == (2, 3, 20, 28)
    y, x = ((np.arange(4 * n) - 2) / 4 for n in (5, 7))
    for mask, wanted in zip(fine.flatten(0, 1), logits.flatten(0, 1), strict=True):
        columns = np.stack([np.interp(x, np.arange(7), row) for row in wanted])  # constant past the ends
        expected = np.stack([np.interp(y, np.arange(5), column) for column in columns.T], axis=1)
        np.testing.assert_allclose(mask, expected, atol=1e-12)


@pytest.mark.parametrize("output_size", [(30, 37), (61, 90), (17, 11), (60, 74)])
def test_masks_are_the_nearest_probabilities_above_half(output_size):
    logits = torch.randn(7, 3, 8, 10)
    probabilities = upsample_masks(logits).sigmoid()[..., :30, :37]
    expected = F.interpolate(probabilities, size=output_size, mode="nearest") > 0.5
    found = list(window_masks(logits, (30, 37), output_size, chunk_pixels=3 * 32 * 40 * 2))
    assert len(found) > 1 and {x.dtype for x in found} == {torch.bool}
    assert torch.equal(torch.cat(found), expected)


def test_chunks_have_at_least_one_track_and_at_most_the_given_pixels():
    logits = torch.randn(5, 2, 4, 4)
    for output_size, pixels, lengths in (
        ((16, 16), 1, [1] * 5),
        ((16, 16), 1024, [2, 2, 1]),
        ((32, 32), 4096, [2, 2, 1]),
    ):
        assert [len(x) for x in window_masks(logits, (16, 16), output_size, chunk_pixels=pixels)] == lengths


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
    scores = ScoreSums(torch.zeros(0, 3), torch.zeros(0, 3))
    assert scores.mean_and_peak().shape == (0, 3)
    for window in windows:
        scores = scores.add(window)
    dense = torch.stack([torch.cat([w, torch.zeros(5 - len(w), 3)]) for w in windows])
    torch.testing.assert_close(scores.mean_and_peak(), 0.75 * dense.mean(0) + 0.25 * dense.amax(0))
    with pytest.raises(ValueError, match="got scores of 4 after 5"):
        scores.add(torch.rand(4, 3))


def test_ranked_tracks_reach_the_threshold():
    found = rank_tracks(torch.tensor([[0.1, 0.3], [0.9, 0.2], [0.0, 0.29]]), 0.3)
    assert (found.track_ids.tolist(), found.labels.tolist()) == ([1, 0], [0, 1])
    assert found.scores.tolist() == pytest.approx([0.9, 0.3]) and found.scores.dtype == torch.float64
    assert [len(x) for x in rank_tracks(torch.zeros(0, 2), 0.0)] == [0, 0, 0]


def test_benchmark_counts_every_pair_above_the_score():
    rows = [[0.5, 0.06, 0.01], [0.05, 0.2, 0.051], [0.3, 0.4, 0.07], [0.08, 0.09, 0.1], [0.11, 0.12, 0]]
    scores = torch.tensor(rows, dtype=torch.float64)
    found = rank_tracks(scores, 0.9, multi_label=True)
    pairs = zip(found.track_ids.tolist(), found.labels.tolist(), strict=True)
    assert sorted(map(list, pairs)) == (scores > 0.05).nonzero().tolist()
    assert len(found.scores) == 12 and torch.equal(found.scores, scores[found.track_ids, found.labels])
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)


def test_benchmark_counts_at_least_ten_pairs_if_there_are_so_many():
    found = rank_tracks(torch.arange(12).reshape(4, 3) / 1000, 0.9, multi_label=True)
    assert (found.track_ids * 3 + found.labels).tolist() == list(range(11, 1, -1))
    for tracks, pairs in ((2, 6), (0, 0)):
        assert [len(x) for x in rank_tracks(torch.zeros(tracks, 3), 0.9, multi_label=True)] == [pairs] * 3
