"""The two halves of a model as modules of plain tensors: a frame encoder and a clip decoder (paper Fig. 2).

Both give dicts, whose names travel with a saved program. What the encoder gives has frames first, so that a clip is a
slice of consecutive rows, and goes to the decoder by the same names:

values         (T, V, N, C): what each decoder layer samples, for its frame and, with temporal attention, for its clip
content        (T, Q, C): each frame's queries
coords         (T, Q, 2): their points, xy in [0, 1] of the padded image
mask_features  (T, M, h, w): at stride 4 of the padded image
association    (T, Q, E): what lines up the queries of a clip's frames; only where the model does

The decoder gives, of a clip:

class_scores       (Q, K), probabilities
mask_coefficients  (Q, M): times a frame's mask features they are the logits of its masks
embeddings         (Q, C), for tracking
boxes              (T, Q, 4), cxcywh in [0, 1] of the padded image
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mdqe.inference.frame_buffer import encode_frames
from mdqe.model import MDQE
from mdqe.modeling.decoder import LayerValues
from mdqe.modeling.encoder import SpatialShapes
from mdqe.modeling.query_init import FrameQueries, QueryInitializer
from mdqe.ops.attention import MultiScaleDeformableAttention


class FrameEncoder(nn.Module):
    """Backbone, encoder, mask features and every frame's own queries.

    Args:
        model: its weights are shared, not copied.
    """

    def __init__(self, model: MDQE) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Frames (T, 3, H, W) uint8 RGB, resized; normalisation and padding happen here."""
        encoded = encode_frames(self.model, frames, 0)
        values = [x[0].flatten(2) for layer in encoded.values for x in layer if x is not None]  # (T, N, C) each
        encoding = {
            "values": torch.stack(values, 1),
            "content": encoded.queries.content[0],
            "coords": encoded.queries.coords[0],
            "mask_features": encoded.mask_features[0].transpose(0, 1),  # (M, T, h, w) → (T, M, h, w)
        }
        embeddings = encoded.queries.embeddings
        if associates(self.model) and embeddings is not None:
            encoding["association"] = embeddings[0]
        return encoding


class ClipDecoder(nn.Module):
    """Association, decoder and heads, for one clip.

    Args:
        model: its weights are shared, not copied.
    """

    def __init__(self, model: MDQE) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        values: Tensor,
        content: Tensor,
        coords: Tensor,
        mask_features: Tensor,
        association: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The encodings of a clip of any length T ≥ 1."""
        model = self.model
        shapes = self.level_shapes(mask_features)
        torch._check(values.shape[2] == sum(h * w for h, w in shapes), lambda: "values do not fit mask_features")
        queries = FrameQueries(content[None], coords[None], None if association is None else association[None], None)
        _, found = model.decode(queries, self.layer_values(values), shapes)
        return {
            "class_scores": found.class_logits[0].sigmoid(),
            "mask_coefficients": found.mask_coefficients[0],
            "embeddings": found.embeddings[0],
            "boxes": found.boxes[0],
        }

    def level_shapes(self, mask_features: Tensor) -> SpatialShapes:
        """(h, w) of each level, from mask features at stride 4: every level halves the one before, rounded up."""
        h, w = mask_features.shape[-2:]
        shapes = []
        for _ in range(self.model.config.num_levels):
            h, w = (h + 1) // 2, (w + 1) // 2
            shapes.append((h, w))
        return tuple(shapes)

    def layer_values(self, values: Tensor) -> tuple[LayerValues, ...]:
        """Values (T, V, N, C) of each layer; of a clip the temporal attention gets the frames that it looks at."""
        layers: list[Any] = list(self.model.decoder.layers)
        values = values.unflatten(-1, (self.model.config.num_heads, -1)).unflatten(1, (len(layers), -1))
        parts = []
        for i, layer in enumerate(layers):
            spatial, tca = values[:, i, 0], layer.clip.cross_attn  # (T, N, H, C / H)
            temporal = None
            if tca is not None:
                temporal = values[tca.frame_index(values.shape[0], values.device), i, 1][None]
            parts.append(LayerValues(spatial[None], temporal))
        return tuple(parts)


def associates(model: MDQE) -> bool:
    """Whether the decoder lines up queries, for which it needs their embeddings."""
    return model.config.query_initialization and model.config.query_association


def portable(model: MDQE) -> MDQE:
    """A copy for programs that run elsewhere: on the CPU, in float32, sampling by standard operators alone."""
    copied = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    for module in copied.modules():
        if isinstance(module, MultiScaleDeformableAttention | QueryInitializer):
            module.plain_operator = True
    return copied
