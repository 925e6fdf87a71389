"""How large the parts of a model are, and what a frame costs in each."""

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mdqe.modeling.preprocess import padded_size

if TYPE_CHECKING:
    from mdqe.model import MDQE

PARTS = {  # in the order in which a frame passes through
    "backbone": ("backbone",),
    "encoder": ("encoder",),
    "query initialization": ("query_init",),
    "decoder": ("decoder",),
    "heads": ("class_head", "coefficient_head"),
    "mask head": ("mask_head",),
}
PER_SAMPLE = 10  # of a sampled channel: four products and sums of the interpolation, one of the attention weight


def parameters_by_part(model: "MDQE") -> dict[str, int]:
    """Number of parameters of each part; together all of the model's."""
    modules = dict(model.named_children())
    counts = {
        part: sum(p.numel() for name in names for p in modules.pop(name).parameters()) for part, names in PARTS.items()
    }
    for name, module in modules.items():
        counts[name] = sum(p.numel() for p in module.parameters())
    return counts


def flops_by_part(model: "MDQE", size: tuple[int, int]) -> dict[str, int]:
    """Floating-point operations per frame of each part, for frames of (height, width) as the model sees them.

    Counted are matrix products, convolutions and the samples of deformable attention; a frame is encoded once, and one
    clip is decoded for every `clip_stride` frames. Nothing is computed: tensors have shapes alone.
    """
    config = model.config
    model = deepcopy(model).float().to("meta").eval()
    frames = torch.empty(1, config.test_clip_length, 3, *padded_size(size), device="meta")
    counts = dict.fromkeys(parameters_by_part(model), 0)

    def count(part: str, share: float, step: Callable[[], Any]) -> Any:
        with FlopCounterMode(display=False, custom_mapping=_SAMPLING) as counter, torch.inference_mode():
            made = step()
        counts[part] += round(counter.get_total_flops() * share)
        return made

    per_frame, per_clip = 1 / config.test_clip_length, 1 / config.clip_stride
    encoder, decoder = model.encoder, model.decoder
    maps = count("backbone", per_frame, lambda: model.backbone(frames.flatten(0, 1)))
    tokens = count("encoder", per_frame, lambda: encoder(maps, 1, padded_size(size), [size]))
    memory, shapes = tokens.memory, tokens.spatial_shapes
    queries = count("query initialization", per_frame, lambda: model.query_init.select(memory, shapes))
    values = count("decoder", per_frame, lambda: decoder.project_values(memory, tokens.padding_mask))
    queries = count("query initialization", per_clip, lambda: model.associate(queries, config.association_window / 2))
    states = count("decoder", per_clip, lambda: decoder(queries.content, queries.coords, values, shapes))
    count("heads", per_clip, lambda: model.predict(states[-1]))
    count("mask head", per_frame, lambda: model.mask_head(memory, shapes))
    return counts


def _sampled(value: Any, grid: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Of `grid_sample`: one interpolation for every value that comes out."""
    return PER_SAMPLE * torch.Size(out_shape).numel()


_SAMPLING = {torch.ops.aten.grid_sampler_2d: _sampled}
