"""QueryInitializer: each cell's peak, its content, and the same object in every frame of a clip."""

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


def memory(clips: int = 2, frames: int = 3) -> Tensor:
    return torch.randn(clips, frames, TOKENS, DIM, dtype=torch.float64)


def mlp(head: torch.nn.Module, x: Tensor) -> Tensor:
    """Three linear layers, GELU between them."""
    for layer in head.layers[:-1]:
        x = F.gelu(x @ layer.weight.T + layer.bias)
    return x @ head.layers[-1].weight.T + head.layers[-1].bias


def slow_peaks(saliency: Tensor, grid: int) -> list[tuple[float, float]]:
    """Each cell's highest point on the finer map, sampled pixel by pixel; cells by rows."""
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
            points.append((index % width / width, index / (width * height)))  # y without a floor
    return points


@pytest.mark.parametrize("grid", [1, 3, 4, 7])
def test_peaks_of_every_cell(grid):
    module, tokens = initializer(grid), memory(2, 2)
    with torch.no_grad():
        queries = module.select(tokens, SHAPES)
    assert queries.coords.shape == (2, 2, grid**2, 2)
    for b in range(2):
        for t in range(2):
            logits = mlp(module.activation_head, tokens[b, t, : 6 * 9]).detach().unflatten(0, (6, 9))
            torch.testing.assert_close(queries.activation[b, t], logits.permute(2, 0, 1), rtol=1e-9, atol=1e-11)
            want = slow_peaks(logits.sigmoid().amax(-1), grid)
            torch.testing.assert_close(queries.coords[b, t], torch.tensor(want, dtype=torch.float64))


def test_a_point_of_a_known_map():
    """The last of 5 × 9 finer pixels, row 4 and column 8: x is 8 / 9, and y no whole row but 44 / 45."""
    saliency = torch.zeros(1, 2, 4, dtype=torch.float64)
    saliency[0, 1, 3] = 1
    assert QueryInitializer(DIM, 1, grid_size=1)._peaks(saliency)[0, 0].tolist() == pytest.approx([8 / 9, 44 / 45])


def test_content_is_the_mean_over_levels():
    module, tokens = initializer(), memory(1, 2)
    with torch.no_grad():
        queries = module.select(tokens, SHAPES)
    for t in range(2):
        maps = levels_of(tokens[0, t], SHAPES)
        for k in range(GRID**2):
            x, y = queries.coords[0, t, k].tolist()
            want = sum(bilinear(m, x, y, border=True) for m in maps) / len(maps)
            torch.testing.assert_close(queries.content[0, t, k], want, rtol=1e-9, atol=1e-11)
            embedding = mlp(module.embedding_head, want).detach()
            torch.testing.assert_close(queries.embeddings[0, t, k], embedding, rtol=1e-9, atol=1e-11)


def made_up(clips: int, frames: int, grid: int = GRID, seed: int = 0) -> FrameQueries:
    generator = torch.Generator().manual_seed(seed)
    content, coords, embeddings = (
        torch.randn(clips, frames, grid**2, n, dtype=torch.float64, generator=generator) for n in (DIM, 2, 5)
    )
    return FrameQueries(content, coords, embeddings, torch.randn(clips, frames, CLASSES, 6, 9))


def slow_winners(embeddings: Tensor, grid: int, window: float) -> list[list[int]]:
    """For each frame and query of the central frame the most similar query within reach: embeddings (T, Q, E)."""
    frames, center = len(embeddings), (len(embeddings) - 1) // 2
    winners = []
    for t in range(frames):
        reach, row = window * abs(t - center), []
        for k in range(grid**2):
            best, winner = -math.inf, -1
            for q in range(grid**2):
                near = abs(q // grid - k // grid) <= reach and abs(q % grid - k % grid) <= reach
                similarity = float(embeddings[t, q] @ embeddings[center, k])
                if near and similarity > best:
                    best, winner = similarity, q
            row.append(winner)
        winners.append(row)
    return winners


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("window", [0.5, 1, 1.5, 2.5, 100])
def test_association_by_loops(frames, window):
    """Half a window is not rounded: 1.5 cells reach one cell a frame away, three cells two frames away."""
    module, queries = QueryInitializer(DIM, CLASSES, grid_size=GRID, embed_dim=5), made_up(2, frames)
    got = module.associate(queries, window)
    for b in range(2):
        for t, winners in enumerate(slow_winners(queries.embeddings[b], GRID, window)):
            assert torch.equal(got.content[b, t], queries.content[b, t, winners])
            assert torch.equal(got.coords[b, t], queries.coords[b, t, winners])
    assert got.embeddings is queries.embeddings
    assert got.activation is queries.activation
    center = (frames - 1) // 2
    assert torch.equal(got.content[:, center], queries.content[:, center])


def test_association_follows_what_moves():
    """Embeddings that travel one cell a frame to the right are found again, within reach."""
    module, grid = QueryInitializer(DIM, CLASSES, grid_size=5, embed_dim=25), 5
    unique = torch.eye(25, dtype=torch.float64).unflatten(0, (grid, grid))
    embeddings = torch.stack([unique.roll(t - 1, 1).flatten(0, 1) for t in range(4)])[None]
    coords = torch.arange(25.0).expand(1, 4, 25)[..., None].expand(-1, -1, -1, 2)
    got = module.associate(FrameQueries(coords, coords, embeddings, None), 1).coords[0, ..., 0].unflatten(1, (5, 5))
    for t in range(4):
        moved = t - 1
        for column in range(5):
            if 0 <= column + moved < 5:
                assert got[t, 2, column] == 2 * 5 + column + moved


@pytest.mark.parametrize("frames", [1, 4])
def test_forward_selects_then_associates(frames):
    module, tokens = initializer(), memory(2, frames)
    with torch.no_grad():
        own = module.select(tokens, SHAPES)
        for window, want in ((None, own), (2.5, module.associate(own, 2.5)), (1, module.associate(own, 1))):
            for got, wanted in zip(module(tokens, SHAPES, window), want, strict=True):
                assert torch.equal(got, wanted)
        assert all(torch.equal(a, b) for a, b in zip(module(tokens, SHAPES), module(tokens, SHAPES, 2.5), strict=True))
    if frames == 1:
        assert torch.equal(module(tokens, SHAPES).content, own.content)


def test_clips_and_frames_are_selected_alone():
    module, tokens = initializer(), memory(2, 3)
    with torch.no_grad():
        together = module.select(tokens, SHAPES)
        for b in range(2):
            for t in range(3):
                alone = module.select(tokens[b : b + 1, t : t + 1], SHAPES)
                for x, y in zip(together, alone, strict=True):
                    torch.testing.assert_close(x[b, t], y[0, 0], rtol=1e-10, atol=1e-12)


def test_gradients_reach_content_but_no_point():
    module, tokens = initializer(), memory(1, 3).requires_grad_()
    queries = module(tokens, SHAPES)
    assert not queries.coords.requires_grad
    queries.content.sum().backward()
    assert tokens.grad.any()
    assert all(p.grad is None for p in module.parameters())
    queries = module(tokens, SHAPES)
    (queries.embeddings.sum() + queries.activation.sum()).backward()
    assert all(p.grad.any() for p in module.parameters())


def test_objects_are_rare_at_first():
    module = QueryInitializer(DIM, CLASSES)
    assert module.activation_head.layers[-1].bias.sigmoid().mean().item() == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_points_are_never_in_half_precision(dtype):
    queries = initializer().to(dtype)(memory(1, 2).to(dtype), SHAPES)
    assert queries.coords.dtype == torch.float32
    assert queries.content.dtype == dtype


def test_learned_queries_are_the_same_everywhere():
    module = LearnedQueries(DIM, 9).double()
    queries = module.select(memory(2, 3), SHAPES)
    assert queries.content.shape == (2, 3, 9, DIM)
    assert torch.equal(queries.content[1, 2], module.content)
    assert torch.equal(queries.coords[0, 1], module.points.sigmoid())
    assert queries.embeddings is None
    assert queries.activation is None
