"""Starting points for training: weights of other code, as far as they mean the same here.

Known layouts: ResNets of torchvision, timm and detectron2 (also with the names of Caffe2), SwinV2 of Microsoft and
timm, Deformable DETR (the authors' code and transformers), SeqFormer and IDOL, released MDQE, and this library.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mdqe.checkpoint.files import is_plain, without_prefixes
from mdqe.checkpoint.layout import dropped, inflate_temporal, renamed
from mdqe.errors import InputError, printable
from mdqe.modeling.preprocess import padded_size
from mdqe.ops.reference import OFFSET_SCALE

_OFFICIAL = "detr.backbone.0.backbone."
_BACKBONES = re.compile(r"(detr\.)*backbone\.(0\.backbone|0\.body|bottom_up|conv_encoder\.model|model)?\.?")
_COMPUTED = "relative_coords_table"
_COUNTER = "num_batches_tracked"
_CAFFE2 = (  # parts of Caffe2 names and their replacements, in this order
    (r"^res_conv1_bn_", "stem.conv1.norm."), (r"^conv1_", "stem.conv1."), (r"_branch1_", ".shortcut_"),
    (r"_branch2([abc])_", lambda found: f".conv{'abc'.index(found[1]) + 1}_"), (r"^res(\d)_(\d+)", r"res\1.\2"),
    (r"_bn_", ".norm."), (r"\.(s|gamma)$", ".weight"), (r"\.(b|beta)$", ".bias"), (r"_w$|\.w$", ".weight"),
    (r"\.(rm|running_mean)$", ".running_mean"), (r"\.(riv|running_var)$", ".running_var"),
)  # fmt: skip
_ENCODER = (  # beginnings of names without prefixes, and their replacements
    (r"input_proj\.(\d+)\.", r"encoder.projections.\1."),
    (r"level_embed$", r"encoder.level_embed"),
    (r"encoder\.layers\.(\d+)\.(?:linear|fc)1\.", r"encoder.layers.\1.mlp.layers.0."),
    (r"encoder\.layers\.(\d+)\.(?:linear|fc)2\.", r"encoder.layers.\1.mlp.layers.1."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.", r"encoder.layers.\1.mlp.layers.0."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.", r"encoder.layers.\1.mlp.layers.1."),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.layers.\1.norm1."),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.", r"encoder.layers.\1.norm2."),
    (r"encoder\.(layers\.\d+\.(?:self_attn|norm[12])\.|norm\.)", r"encoder.\1"),
)


class Start(NamedTuple):
    """What a model took from a state, and what not."""

    taken: dict[str, str]
    """Names in the state by the names of the model's tensors."""
    unused: tuple[str, ...]
    """Names in the state that have no counterpart, or one of another shape."""
    initial: tuple[str, ...]
    """Names of the model's tensors that keep their values."""

    def __str__(self) -> str:
        """A table of the parts of the model, and the names that were not used."""
        parts = Counter(_part(name) for name in (*self.taken, *self.initial))
        taken = Counter(_part(name) for name in self.taken)
        rows = [("part", "taken", "of", ""), *(_row(part, taken[part], parts[part]) for part in parts)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        if self.unused:
            names = sorted({re.sub(r"\.\d+(?=\.)", ".*", name) for name in self.unused})
            more = f" and {len(names) - 20} more" if len(names) > 20 else ""
            lines.append(f"not used: {', '.join(printable(name) for name in names[:20])}{more}")
        return "\n".join(lines)


def initialize(model: nn.Module, state: dict[str, Tensor], *, frame_size: tuple[int, int] | None = None) -> Start:
    """Copy the weights of other code into a model, as far as they mean the same there. Others keep their values.

    The whole backbone must be in the state. Deformable DETR and its relatives give the projections, the level embedding
    and the encoder as well. Two kinds of weights are adapted: those that expect BGR frames without a standard deviation
    (the names of Caffe2), to the model's frames; and sampling offsets in cells of each level (Deformable DETR), to
    eighths of the image.

    Args:
        model: an `MDQE`; its configuration decides the sizes.
        state: tensors by name.
        frame_size: (height, width) of the frames for which the adapted offsets are exact; None: frames of 16:9 with the
            shorter edge of the test.

    Returns:
        What was taken, what was not used and what keeps its values; as a text it is a table.

    Raises:
        ValueError: a part of the backbone is missing or has another shape, or values are NaN or infinite, or not
            tensors. Nothing is copied.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor) or not is_plain(value):
            kind = "a sparse, quantized, nested or meta tensor" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{printable(name)} is {kind}, expected tensors by name, as read_official returns them")
    own = {name: value for name, value in model.state_dict().items() if not name.endswith(_COUNTER)}
    state = without_prefixes(state, lambda text: None)
    found = _translated(state, own, model, frame_size)
    config: Any = model.config
    repeated = inflate_temporal({name: tensor for name, (_, tensor) in found.items()}, config)
    fitting = {name: repeated[name] for name in found if repeated[name].shape == own[name].shape}
    body = [name for name in own if name.startswith("backbone.body.") and not name.endswith(_COMPUTED)]
    missing = [name for name in body if name not in fitting]
    if missing:
        reasons = [
            f"{n} ({tuple(found[n][1].shape)}, expected {tuple(own[n].shape)})" if n in found else n for n in missing
        ]
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise InputError(
            f"{len(missing)} of the {len(body)} tensors of the backbone are not in the weights: "
            f"{', '.join(reasons[:5])}{more}"
        )
    broken = [name for name, tensor in fitting.items() if tensor.is_complex() or not bool(tensor.isfinite().all())]
    if broken:
        raise InputError(f"{len(broken)} tensors have complex, NaN or infinite values: {', '.join(broken[:5])}")
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)
    taken = {name: found[name][0] for name in fitting}
    used = set(taken.values())
    return Start(taken, tuple(n for n in state if n not in used), tuple(n for n in own if n not in taken))


def _translated(
    state: dict[str, Tensor], own: dict[str, Tensor], model: nn.Module, frame_size: tuple[int, int] | None
) -> dict[str, tuple[str, Tensor]]:
    """By name in the model: the name in the state and the adapted tensor, of any shape."""
    skipped = set(dropped(state))
    downsample_first = any(re.search(r"(^|\.)layers\.0\.downsample\.", name) for name in state)
    in_cells = not any(re.match(r"(encoder\.projections|query_init)\.|detr\.transformer_enc\.", name) for name in state)
    found: dict[str, tuple[str, Tensor]] = {}
    for name, tensor in state.items():
        new = next((one for one in _candidates(name, own, downsample_first) if one in own), None)
        if new is not None and name not in skipped and new not in found:
            tensor = _for_rgb(name, tensor, model)
            if in_cells and ".self_attn.sampling_offsets." in new and tensor.shape == own[new].shape:
                tensor = _in_eighths(tensor, model.config, frame_size)
            found[new] = (name, tensor)
    return found


def _candidates(name: str, own: dict[str, Tensor], downsample_first: bool) -> list[str]:
    """Names that a tensor may have in the model, the likeliest first."""
    found = [name, renamed(name) or ""]
    plain = re.sub(r"^(detr\.)*(transformer\.)?", "", name)
    found += [re.sub(f"^{pattern}", new, plain) for pattern, new in _ENCODER if re.match(pattern, plain)]
    inner = name[match.end() :] if (match := _BACKBONES.match(name)) else name
    for pattern, new in _CAFFE2 if re.match(r"(res_?)?(conv1|\d_\d+_branch)", inner) else ():
        inner = re.sub(pattern, new, inner)
    if downsample_first or not inner.startswith("layers."):
        found.append(renamed(_OFFICIAL + inner) or "")
    folded = re.sub(r"(^|\.)bn(\d)\.", r"\1conv\2.norm.", re.sub(r"downsample\.1\.", "downsample.0.norm.", inner))
    stages = re.sub(r"^layers\.(\d)\.", r"layers_\1.", inner)
    found += [f"backbone.body.{one}" for one in (inner, folded, stages)]
    final = max((key for key in own if key.startswith("backbone.norms.")), default="").rpartition(".")[0]
    if final and re.fullmatch(r"norm\.(weight|bias)", inner):  # after the last stage of a classifier
        found.append(f"{final}.{inner.rpartition('.')[2]}")
    return found


def _in_eighths(offsets: Tensor, config: Any, frame_size: tuple[int, int] | None) -> Tensor:
    """Sampling offsets in cells of each level, weight (H · L · P · 2, C) or bias, in eighths of the image."""
    edge = config.test_shorter_edge or 360
    height, width = padded_size(frame_size or (edge, round(edge * 16 / 9)))
    cells = [(math.ceil(width / 2**i), math.ceil(height / 2**i)) for i in range(3, 3 + config.num_levels)]  # (L, 2) xy
    scale = OFFSET_SCALE / offsets.new_tensor(cells)
    split = offsets.unflatten(0, (config.num_heads, config.num_levels, config.num_points, 2))
    scale = scale.view(1, config.num_levels, 1, 2, *[1] * (offsets.dim() - 1))
    return (split * scale).flatten(0, 3)


def _for_rgb(name: str, tensor: Tensor, model: Any) -> Tensor:
    """The weights of Caffe2's first convolution for RGB frames that are divided by the standard deviation."""
    if not re.search(r"(^|\.)conv1_w$", name) or tensor.dim() != 4 or tensor.shape[1] != 3:
        return tensor
    return tensor.flip(1) * tensor.new_tensor(model.config.pixel_std).view(1, 3, 1, 1)


def _part(name: str) -> str:
    return ".".join(name.split(".")[: 2 if name.startswith(("backbone", "encoder")) else 1])


def _row(part: str, taken: int, count: int) -> tuple[str, str, str, str]:
    return part, str(taken), str(count), "" if taken == count else "the rest as initialised" if taken else "random"
