"""Where mask logits lie: exact predictions come back at their place, through every path from logits to masks."""

import sys
from pathlib import Path

import pytest
import torch

from mdqe import ClipTargets
from mdqe.inference.image import filter_image
from mdqe.inference.postprocess import window_masks
from mdqe.losses.targets import scale_targets
from mdqe.modeling.mask_head import first_sample

sys.path.append(str(Path(__file__).parents[2] / "examples"))

FRAME = (160, 224)
MAX_OFFSET = 0.05  # pixels


def discs(size: tuple[int, int]) -> torch.Tensor:
    """Discs (N, H, W) bool at random places of frames of this size, between pixels too."""
    generator = torch.Generator().manual_seed(7)
    scale = torch.tensor([size[0] / FRAME[0], size[1] / FRAME[1]])
    centers = 45 + torch.rand(240, 2, generator=generator) * (torch.tensor(FRAME) - 90)
    radii = 20 + 15 * torch.rand(240, 1, 1, generator=generator)
    y = (torch.arange(size[0]) + 0.5)[:, None] / scale[0] - centers[:, 0, None, None]
    x = (torch.arange(size[1]) + 0.5)[None] / scale[1] - centers[:, 1, None, None]
    return y**2 + x**2 < radii**2


def perfect_logits(masks: torch.Tensor) -> torch.Tensor:
    """The logits (N, 1, h, w) of a model that has learnt the training targets of masks (N, H, W)."""
    n = len(masks)
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]).expand(n, 1, 4)
    labels, ids = torch.zeros(n, dtype=torch.long), torch.arange(n)[:, None]
    targets = ClipTargets(labels, ids, masks[:, None], boxes)
    return scale_targets(targets, FRAME, 1, torch.float32).masks - 0.5 - 1e-6  # 0 is on one side, whatever the rounding


def offset(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Mean distance (down, right) of the centroids of masks (N, H, W), in pixels."""

    def centroids(masks: torch.Tensor) -> torch.Tensor:
        down = masks.sum(2).double() @ torch.arange(masks.shape[1]).double()
        right = masks.sum(1).double() @ torch.arange(masks.shape[2]).double()
        return torch.stack([down, right], dim=1) / masks.sum((1, 2)).double()[:, None]

    return (centroids(found) - centroids(expected)).mean(0)


@pytest.mark.parametrize("size", [FRAME, (240, 336), (120, 168), (230, 300)])
def test_centered_masks_have_no_offset(size):
    """Also where the masks are resized from the frame to another size of the output."""
    masks = discs(FRAME)
    (found,) = window_masks(perfect_logits(masks), FRAME, size, alignment="centered", chunk_pixels=2**30)
    assert offset(found[:, 0], discs(size)).abs().max() < MAX_OFFSET


@pytest.mark.parametrize("size", [FRAME, (230, 300)])
def test_centered_masks_of_images_have_no_offset(size):
    found = [
        filter_image(torch.tensor([[0.9]]), perfect_logits(m[None])[:, 0], FRAME, size, alignment="centered").masks
        for m in discs(FRAME)[:100]
    ]
    assert offset(torch.cat(found), discs(size)[:100]).abs().max() < MAX_OFFSET


def test_released_masks_lie_half_a_pixel_off():
    masks = discs(FRAME)
    (found,) = window_masks(perfect_logits(masks), FRAME, FRAME, alignment="released", chunk_pixels=2**30)
    torch.testing.assert_close(offset(found[:, 0], masks), torch.full((2,), 0.5).double(), atol=MAX_OFFSET, rtol=0)
    assert first_sample("released") - first_sample("centered") == 0.5


@pytest.mark.parametrize("alignment", ["centered", "released"])
@pytest.mark.parametrize("size", [FRAME, (320, 448), (61, 90)])
def test_masks_of_exported_models(alignment, size):
    """The example for ONNX places the samples as the library does."""
    example = pytest.importorskip("onnx_video")
    logits = torch.randn(4, 1, FRAME[0] // 4, FRAME[1] // 4)
    (expected,) = window_masks(logits, FRAME, size, alignment=alignment, chunk_pixels=2**30)
    for row, mask in zip(logits[:, 0].numpy(), expected[:, 0].numpy(), strict=True):
        assert (example.full_mask(row, FRAME, size, alignment) == mask).all()
