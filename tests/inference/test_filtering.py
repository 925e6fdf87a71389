"""Per-clip filtering against a plain transcription of its rules, and its corner cases."""

import numpy as np
import pytest
import torch

from mdqe.inference.postprocess import ClipDetections, filter_clip


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
        ({"class_scores": torch.ones(3)}, r"class_scores must be \(Q, K\)"),
        ({"class_scores": torch.ones(0, 2)}, r"class_scores must be .*got \(0, 2\)"),
        ({"mask_features": torch.ones(4, 8, 8)}, r"mask_features must be \(M, T, h, w\)"),
        ({"mask_coefficients": torch.ones(2, 4)}, r"as many queries, got \[3, 2, 3\]"),
        ({"mask_coefficients": torch.ones(3, 5)}, "as many channels, got 5 and 4"),
        ({"max_detections": 0}, "max_detections must be at least 1, got 0"),
    ],
)
def test_bad_input(change, message):
    good = {
        "class_scores": torch.ones(3, 2),
        "mask_coefficients": torch.ones(3, 4),
        "embeddings": torch.ones(3, 6),
        "mask_features": torch.ones(4, 1, 8, 8),
        "score_threshold": 0.1,
        "max_detections": 10,
    }
    with pytest.raises(ValueError, match=message):
        filter_clip(**{**good, **change})
