"""Stages in other types against float64. Each takes the input that it has in float64.

With these artificial weights the whole model amplifies rounding about 1000 times, so only single stages are compared.
"""

import copy
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import golden
import pytest
import torch
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from mdqe import MDQE
from mdqe.modeling.decoder import O2IDecoderLayer
from mdqe.modeling.encoder import EncoderLayer
from mdqe.modeling.layers import MLP
from mdqe.modeling.mask_head import MaskHead

# Relative for stages and absolute for scores: about five roundings, of 6e-8 or, in bfloat16, 4e-3.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
STAGES = (Bottleneck, EncoderLayer, O2IDecoderLayer, MaskHead, MLP)

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
TYPES = [
    pytest.param("cpu", torch.float32, id="cpu-float32"),
    pytest.param("cpu", torch.bfloat16, id="cpu-bfloat16"),
    pytest.param("cuda", torch.float32, id="cuda-float32", marks=needs_cuda),
    pytest.param("cuda", torch.bfloat16, id="cuda-bfloat16", marks=needs_cuda),
    pytest.param("cuda", torch.float16, id="cuda-float16", marks=needs_cuda),
]


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, convolutions on CUDA round float32 to ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


class Call(NamedTuple):
    """The inputs and the output of a stage."""

    inputs: tuple
    output: Tensor | tuple


@cache
def calls() -> dict[str, Call]:
    """The calls of all stages for the first clip in float64, by the name of the module."""
    model, seen = golden.model("r50_ovis"), {}

    def record(name: str) -> Callable[[nn.Module, tuple, Tensor | tuple], None]:
        return lambda _, inputs, output: seen.update({name: Call(inputs, output)})

    hooks = [m.register_forward_hook(record(name)) for name, m in model.named_modules() if isinstance(m, STAGES)]
    with torch.inference_mode():
        model(golden.core("r50_ovis")["frames"][:4].permute(0, 3, 1, 2)[None])
    for hook in hooks:
        hook.remove()
    return seen


@cache
def rounded(device: str, dtype: torch.dtype) -> MDQE:
    return copy.deepcopy(golden.model("r50_ovis")).to(device=device, dtype=dtype)


def converted(x: object, device: str, dtype: torch.dtype) -> object:
    """Tensors as in a model of this type: boxes and coordinates, whose last axis has size 2 or 4, are float32."""
    if isinstance(x, Tensor):
        wide = not x.is_floating_point() or x.shape[-1] in (2, 4)
        return x.to(device, x.dtype if not x.is_floating_point() else torch.float32 if wide else dtype)
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(converted(part, device, dtype) for part in x))
    if isinstance(x, tuple):
        return tuple(converted(part, device, dtype) for part in x)
    return x


def leaves(x: Tensor | tuple) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    else:
        for part in x:
            yield from leaves(part)


@pytest.mark.parametrize(("device", "dtype"), TYPES)
def test_every_stage(device, dtype):
    """Blocks of the backbone, layers of the encoder and the decoder, the mask head and all MLPs."""
    model, errors = rounded(device, dtype), {}
    with torch.inference_mode():
        for name, call in calls().items():
            inputs = list(converted(call.inputs, device, dtype))
            inputs = [model.decoder.position_proj if isinstance(part, nn.Module) else part for part in inputs]
            got = model.get_submodule(name)(*inputs)
            for i, (a, b) in enumerate(zip(leaves(got), leaves(call.output), strict=True)):
                assert a.dtype == dtype, name
                errors[f"{name}[{i}]"] = golden.relative_error(a.cpu(), b)
    assert len(errors) > 16 + 6 + 2 * 6 + 1 + 5  # blocks, encoder, decoder, mask head, heads; and the MLPs in layers
    worst = max(errors, key=errors.get)
    assert errors[worst] < TOLERANCE[dtype], (worst, errors[worst])


@pytest.mark.parametrize(("device", "dtype"), TYPES)
def test_scores(device, dtype):
    """Class scores of queries and of the activation map."""
    model = rounded(device, dtype)
    for name in ("class_head", "query_init.activation_head"):
        call = calls()[name]
        with torch.inference_mode():
            got = model.get_submodule(name)(*converted(call.inputs, device, dtype))
        difference = got.cpu().double().sigmoid() - call.output.sigmoid()
        assert call.output.sigmoid().max() > 0.1
        assert difference.abs().max() < TOLERANCE[dtype], name


@pytest.mark.parametrize(("device", "dtype"), TYPES[1:])
def test_a_video_is_segmented(device, dtype):
    frames = golden.core("r50_ovis")["frames"][:5, :64, :96]  # two clips; bfloat16 is slow on a CPU without AVX-512
    result = rounded(device, dtype).segment(frames, multi_label=True)
    assert len(result) >= 10
    assert result.masks.any()
