"""What the tracker asks of the detections that it is given."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mdqe.inference.precision import wide


def check_clip(
    frames: int, class_scores: Tensor, mask_logits: Tensor, embeddings: Tensor, formats: Sequence[Tensor]
) -> None:
    """The detections of a clip of `frames` frames fit together, and those before them.

    Args:
        formats: class scores (0, K), masks (0, h, w) and embeddings (0, E) as the first clip had them; none for it.

    Raises:
        ValueError: misshapen or non-finite tensors, or of another type, size or device than the first clip's.
    """
    given = (
        ("class_scores", "(D, K)", class_scores),
        ("mask_logits", "(D, T, h, w)", mask_logits),
        ("embeddings", "(D, E)", embeddings),
    )
    for name, axes, x in given:
        if x.dim() != axes.count(",") + 1 or not x.is_floating_point() or 0 in x.shape[1:]:
            raise ValueError(f"{name} must be {axes} floating point, got {tuple(x.shape)} {x.dtype}")
        if (len(x), x.device) != (len(class_scores), class_scores.device):
            raise ValueError(
                f"{name} must have D and device of class_scores, "
                f"{len(class_scores)} on {class_scores.device}, got {len(x)} on {x.device}"
            )
    if mask_logits.shape[1] != frames:
        raise ValueError(f"mask_logits must have the {frames} frames of frame_indices, got {mask_logits.shape[1]}")
    for (name, _, x), known in zip(given, formats, strict=False):
        size, wanted = tuple(x.shape[1 - known.dim() :]), tuple(known.shape[1:])
        if (size, wide(x[:0]).dtype, x.device) != (wanted, known.dtype, known.device):
            raise ValueError(
                f"{name} must stay {wanted} {known.dtype} on {known.device} within a video, "
                f"got {size} {x.dtype} on {x.device}"
            )
    finite = torch.stack([torch.isfinite(x).all() for _, _, x in given]).tolist()
    if not all(finite):
        raise ValueError(f"{given[finite.index(False)][0]} must be finite, got NaN or infinity")
