"""QueryInitializer: the peak of each cell, its content, and the association across the frames of a clip."""

import math

import pytest
import torch
from slow_attention import bilinear, levels_of, spread
from torch import Tensor
from torch.nn import functional as F

from mdqe import QueryInitializer
from mdqe.modeling.query_init import FrameQueries, LearnedQueries

SHAPES = ((6, 9), (3, 5), (2, 3))
TOKENS = 6 * 9 + 3 * 5 + 2 * 3
DIM, CLASSES, GRID = 16, 3, 4


def initializer(grid: int = GRID) -> QueryInitializer:
    return spread(QueryInitializer(DIM, CLASSES, grid_size=grid, embed_dim=5), 0.2)


def random_memory(clips: int = 2, frames: int = 3) -> Tensor:
    return torch.randn(clips, frames, TOKENS, DIM, dtype=torch.float64)


def mlp(head: torch.nn.Module, x: Tensor) -> Tensor:
    """Three linear layers, GELU between them."""
    for layer in head.layers[:-1]:
        x = F.gelu(x @ layer.weight.T + layer.bias)
    return x @ head.layers[-1].weight.T + head.layers[-1].bias


def slow_peaks(saliency: Tensor, grid: int) -> list[tuple[float, float]]:
    """The highest point of each cell of the finer map, sampled pixel by pixel; cells row by row."""
    h, w = saliency.shape
    cell_h, cell_w = math.floor(2 * h / grid) + 1, math.floor(2 * w / grid) + 1
    height, width = grid * cell_h, grid * cell_w
    points = []
    for row in range(grid):
        for column in range(grid):
            best, place = -1.0, (0, 0)
            for y in range(row * cell_h, (row + 1) * cell_h):
                for x in range(column * cell_w, (column + 1) * cell_w):
                    value = bilinear(saliency[..., None], (x + 0.5) / width, (y + 0.5) / height, border=True).item()
                    if value > best + 1e-12:
                        best, place = value, (y, x)
            index = place[0] * width + place[1]
            points.append((index % width / width, index / (width * height)))  # y is not rounded down
    return points


@pytest.mark.parametrize("grid", [1, 3, 4, 7])
def test_peaks_of_every_cell(grid):
    module, memory = initializer(grid), random_memory(2, 2)
    with torch.no_grad():
        queries = module.select(memory, SHAPES)
    assert queries.coords.shape == (2, 2, grid**2, 2)
    for b in range(2):
        for t in range(2):
            logits = mlp(module.activation_head, memory[b, t, : 6 * 9]).detach().unflatten(0, (6, 9))
            torch.testing.assert_close(queries.activation[b, t], logits.permute(2, 0, 1), rtol=1e-9, atol=1e-11)
            expected = slow_peaks(logits.sigmoid().amax(-1), grid)
            torch.testing.assert_close(queries.coords[b, t], torch.tensor(expected, dtype=torch.float64))


def test_a_point_of_a_known_map():
    """The last of 5 × 9 finer pixels, row 4 and column 8: x is 8 / 9 and y is 44 / 45, not a whole row."""
    saliency = torch.zeros(1, 2, 4, dtype=torch.float64)
    saliency[0, 1, 3] = 1
    assert QueryInitializer(DIM, 1, grid_size=1)._peaks(saliency)[0, 0].tolist() == pytest.approx([8 / 9, 44 / 45])


def test_content_is_the_mean_over_levels():
    module, memory = initializer(), random_memory(1, 2)
    with torch.no_grad():
        queries = module.select(memory, SHAPES)
    for t in range(2):
        maps = levels_of(memory[0, t], SHAPES)
        for k in range(GRID**2):
            x, y = queries.coords[0, t, k].tolist()
            expected = sum(bilinear(m, x, y, border=True) for m in maps) / len(maps)
            torch.testing.assert_close(queries.content[0, t, k], expected, rtol=1e-9, atol=1e-11)
            embedding = mlp(module.embedding_head, expected).detach()
            torch.testing.assert_close(queries.embeddings[0, t, k], embedding, rtol=1e-9, atol=1e-11)


def slow_matches(embeddings: Tensor, grid: int, window: float) -> list[list[int]]:
    """For each frame and query of the central frame, the most similar query in the window: embeddings (T, Q, E)."""
    frames, center = len(embeddings), (len(embeddings) - 1) // 2
    matches = []
    for t in range(frames):
        reach, row = window * abs(t - center), []
        for k in range(grid**2):
            best, match = -math.inf, -1
            for q in range(grid**2):
                near = abs(q // grid - k // grid) <= reach and abs(q % grid - k % grid) <= reach
                similarity = float(embeddings[t, q] @ embeddings[center, k])
                if near and similarity > best:
                    best, match = similarity, q
            row.append(match)
        matches.append(row)
    return matches


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("window", [0.5, 1, 1.5, 2.5, 100])
def test_association_by_loops(frames, window):
    """Windows are not rounded: 1.5 cells allow one cell to the next frame, and three cells to the one after it."""
    module = QueryInitializer(DIM, CLASSES, grid_size=GRID, embed_dim=5)
    content, coords, embeddings = (torch.randn(2, frames, GRID**2, n, dtype=torch.float64) for n in (DIM, 2, 5))
    queries = FrameQueries(content, coords, embeddings, torch.randn(2, frames, CLASSES, 6, 9))
    result = module.associate(queries, window)
    for b in range(2):
        for t, matches in enumerate(slow_matches(queries.embeddings[b], GRID, window)):
            assert torch.equal(result.content[b, t], queries.content[b, t, matches])
            assert torch.equal(result.coords[b, t], queries.coords[b, t, matches])
    assert result.embeddings is queries.embeddings
    assert result.activation is queries.activation
    center = (frames - 1) // 2
    assert torch.equal(result.content[:, center], queries.content[:, center])


def test_association_follows_motion():
    """Embeddings that move one cell to the right per frame are found in the window."""
    module, grid = QueryInitializer(DIM, CLASSES, grid_size=5, embed_dim=25), 5
    unique = torch.eye(25, dtype=torch.float64).unflatten(0, (grid, grid))
    embeddings = torch.stack([unique.roll(t - 1, 1).flatten(0, 1) for t in range(4)])[None]
    coords = torch.arange(25.0).expand(1, 4, 25)[..., None].expand(-1, -1, -1, 2)
    result = module.associate(FrameQueries(coords, coords, embeddings, None), 1).coords[0, ..., 0].unflatten(1, (5, 5))
    for t in range(4):
        for column in range(5):
            if 0 <= column + t - 1 < 5:
                assert result[t, 2, column] == 2 * 5 + column + t - 1


@pytest.mark.parametrize("frames", [1, 4])
def test_forward_selects_then_associates(frames):
    module, memory = initializer(), random_memory(2, frames)
    with torch.no_grad():
        selected = module.select(memory, SHAPES)
        for arguments, window in (((None,), None), ((1,), 1), ((2.5,), 2.5), ((), 2.5)):
            expected = selected if window is None else module.associate(selected, window)
            for x, y in zip(module(memory, SHAPES, *arguments), expected, strict=True):
                assert torch.equal(x, y)
    if frames == 1:
        assert torch.equal(expected.content, selected.content)


def test_clips_and_frames_are_independent():
    module, memory = initializer(), random_memory(2, 3)
    with torch.no_grad():
        together = module.select(memory, SHAPES)
        for b in range(2):
            for t in range(3):
                alone = module.select(memory[b : b + 1, t : t + 1], SHAPES)
                for x, y in zip(together, alone, strict=True):
                    torch.testing.assert_close(x[b, t], y[0, 0], rtol=1e-10, atol=1e-12)


def test_gradients_reach_the_content_but_not_the_points():
    module, memory = initializer(), random_memory(1, 3).requires_grad_()
    queries = module(memory, SHAPES)
    assert not queries.coords.requires_grad
    queries.content.sum().backward(retain_graph=True)
    assert memory.grad.any()
    assert all(p.grad is None for p in module.parameters())
    (queries.embeddings.sum() + queries.activation.sum()).backward()
    assert all(p.grad.any() for p in module.parameters())


def test_initial_scores_are_low():
    module = QueryInitializer(DIM, CLASSES)
    assert module.activation_head.layers[-1].bias.sigmoid().mean().item() == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_points_are_float32_in_half_precision(dtype):
    queries = initializer().to(dtype)(random_memory(1, 2).to(dtype), SHAPES)
    assert queries.coords.dtype == torch.float32
    assert queries.content.dtype == dtype


def test_learned_queries_are_the_same_in_every_frame():
    module = LearnedQueries(DIM, 9).double()
    queries = module.select(random_memory(2, 3), SHAPES)
    assert queries.content.shape == (2, 3, 9, DIM)
    assert torch.equal(queries.content[1, 2], module.content)
    assert torch.equal(queries.coords[0, 1], module.points.sigmoid())
    assert queries.embeddings is None
    assert queries.activation is None
    with pytest.raises(ValueError, match="queries have no embeddings"):
        initializer().associate(queries, 2.5)


@pytest.mark.parametrize("name", ["dim", "num_classes", "grid_size", "embed_dim"])
def test_sizes_of_the_query_initializer_are_positive(name):
    with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
        QueryInitializer(**{"dim": 32, name: 0})


@pytest.mark.parametrize("shape", [(0, 2, 24, 32), (1, 0, 24, 32)])
def test_no_clips_and_no_frames(shape):
    with pytest.raises(ValueError, match="expected at least one clip of at least one frame"):
        QueryInitializer(32)(torch.zeros(shape), ((4, 6),))
