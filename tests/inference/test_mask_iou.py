"""The IoU of masks: the compiled kernel and plain PyTorch against counts of pixels."""

import numpy as np
import pytest
import torch

from mdqe.inference import mask_iou as module
from mdqe.inference.mask_iou import mask_iou
from mdqe.ops.kernels import limit_cpu

KERNELS = {"default": "plain C++", "avx2": "AVX2", "avx512": "AVX-512"}
SPECIAL = float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-45, -1e-45
"""Numbers without a usual sign or finite size; 1e-45 is the smallest positive float32."""


@pytest.fixture(params=["plain PyTorch", *KERNELS])
def implementation(request, monkeypatch):
    """Plain PyTorch, or the kernel with the instruction set of this name."""
    if request.param == "plain PyTorch":
        monkeypatch.setattr(module, "_COMPILED", False)
    elif not module._COMPILED:
        pytest.skip("the kernels were not built")
    elif limit_cpu(request.param) != KERNELS[request.param]:
        limit_cpu(None)
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    limit_cpu(None)


def expected(tracks: torch.Tensor, detections: torch.Tensor, places: list[int]) -> np.ndarray:
    """IoU (N, D) from integer counts of pixels, divided in the type of the logits."""
    dtype = tracks.numpy().dtype.type
    a, b = (x.numpy().reshape(len(x), -1) > 0 for x in (tracks, detections[:, places]))
    shared = np.array([[np.count_nonzero(one & other) for other in b] for one in a]).reshape(len(a), len(b))
    both = a.sum(1).astype(dtype)[:, None] + b.sum(1).astype(dtype)
    return shared.astype(dtype) / (both - shared.astype(dtype) + dtype(1e-6))


def logits(generator: torch.Generator, *size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Noise, mostly negative in some frames, so that words without a positive pixel occur at both ends of a frame."""
    x = torch.randn(size, generator=generator, dtype=torch.float64)
    return (x - 4 * torch.rand(size[:2], generator=generator, dtype=torch.float64)[..., None, None]).to(dtype)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_counted_pixels(implementation, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    height, width = ((1, 1), (3, 5), (8, 8), (5, 13), (9, 7), (16, 20))[seed % 6]
    places = ([0, 1, 2], [0, 2], [1, 2], [0], [3], [])[seed // 2 % 6]
    tracks = logits(generator, 1 + seed % 5, len(places), height, width, dtype=dtype)
    detections = logits(generator, 1 + seed % 3, 4, height, width, dtype=dtype)
    iou, checks = mask_iou(tracks, detections, places)
    assert iou.dtype == dtype
    np.testing.assert_array_equal(iou.numpy(), expected(tracks, detections, places))
    assert all(x.isfinite() for x in checks)


@pytest.mark.parametrize(("tracks", "detections", "frames"), [(0, 3, 2), (3, 0, 2), (0, 0, 1), (2, 2, 0), (0, 2, 0)])
def test_without_tracks_detections_or_frames(implementation, tracks, detections, frames):
    places = list(range(frames))
    iou, checks = mask_iou(torch.ones(tracks, frames, 3, 4), torch.ones(detections, 4, 3, 4), places)
    assert torch.equal(iou, torch.full((tracks, detections), float(frames > 0)))
    assert all(x.isfinite() for x in checks)


def test_views(implementation):
    generator = torch.Generator().manual_seed(0)
    tracks, detections = logits(generator, 5, 6, 9, 20), logits(generator, 4, 4, 9, 20)
    for a, b in (
        (tracks[1:4, 2:5], detections[::2]),
        (tracks[:, 1:4, 2:7, 3:9], detections[..., 2:7, 3:9]),
        (tracks[:, :3].mT.contiguous().mT, detections.transpose(0, 1).contiguous().transpose(0, 1)),
        (tracks[:1, :1].expand(3, 3, -1, -1), detections[:, :1].expand(-1, 4, -1, -1)),
    ):
        np.testing.assert_array_equal(mask_iou(a, b, [0, 1, 3])[0].numpy(), expected(a, b, [0, 1, 3]))


@pytest.mark.parametrize("frame", [0, 3])  # frame 3 is compared with no track
@pytest.mark.parametrize("value", SPECIAL)
@pytest.mark.parametrize("pixel", [0, 63, 64, 71, 75])
def test_special_numbers(implementation, frame, value, pixel):
    tracks, detections = torch.full((1, 3, 4, 19), 2.0), torch.full((2, 4, 4, 19), 2.0)
    tracks[0, 2].view(-1)[pixel] = value
    detections[1, frame].view(-1)[pixel] = value
    iou, checks = mask_iou(tracks, detections, [0, 1, 2])
    np.testing.assert_array_equal(iou.numpy(), expected(tracks, detections, [0, 1, 2]))
    assert all(x.isfinite() for x in checks) == np.isfinite(value)


def test_more_pixels_than_float32_counts(implementation):
    if implementation == "plain PyTorch":
        pytest.skip("adds pixels in float32")
    pixels = 2**24 + 3
    tracks = torch.ones(1, 1, 1, 1).expand(1, 1, 4, pixels // 4 + 1)
    detections = torch.ones(1, 1, 4, pixels // 4 + 1)
    detections[..., 5] = -1
    iou, _ = mask_iou(tracks, detections, [0])
    assert iou.item() == expected(tracks, detections, [0]).item() < 1


def test_threads_do_not_change_the_result():
    generator, threads = torch.Generator().manual_seed(1), torch.get_num_threads()
    tracks, detections = logits(generator, 30, 2, 96, 160), logits(generator, 20, 3, 96, 160)
    results = []
    for number in (1, 4):
        torch.set_num_threads(number)
        results.append(mask_iou(tracks, detections, [0, 2])[0])
    torch.set_num_threads(threads)
    assert torch.equal(*results)
    np.testing.assert_array_equal(results[0].numpy(), expected(tracks, detections, [0, 2]))


@pytest.mark.parametrize(
    ("tracks", "detections", "places", "message"),
    [
        (torch.ones(1, 2, 3), torch.ones(1, 2, 3, 4), [0, 1], "tracks must be"),
        (torch.ones(1, 2, 3, 4).double(), torch.ones(1, 2, 3, 4), [0, 1], "float32 on the CPU, got .* float64"),
        (torch.ones(1, 2, 3, 4), torch.ones(1, 2, 4, 4), [0, 1], "size of tracks"),
        (torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), [0], "2 ascending frames"),
        (torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), [0, 2], "2 ascending frames"),
        (torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), [1, 0], "2 ascending frames"),
        (torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), [-1, 0], "2 ascending frames"),
        (torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), [1, 1], "2 ascending frames"),
    ],
)
def test_the_operator_rejects_arguments_that_do_not_fit(tracks, detections, places, message):
    if not module._COMPILED:
        pytest.skip("the kernels were not built")
    with pytest.raises(RuntimeError, match=message):
        torch.ops.mdqe.mask_iou(tracks, detections, places)
