"""This library's deformable attention inside transformers' Deformable DETR: the same outputs in less time.

pip install mdqe transformers
python examples/deformable_detr_attention.py
"""

import argparse
import time

import torch
from torch import Tensor, nn
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from mdqe.ops import deform_attn, kernel_status


class DeformAttn(nn.Module):
    """Replaces the module inside transformers' attention layers, with the same arguments."""

    def forward(self, value, shapes, shapes_list, level_start_index, locations, weights, im2col_step) -> Tensor:
        """value (B, N, H, D), locations (B, Q, H, L, P, 2), weights (B, Q, H, L, P) → (B, Q, H · D)."""
        return deform_attn(value, shapes_list, locations, weights)


def replace_attention(model: nn.Module) -> int:
    """Put `DeformAttn` into every attention layer of a model and return the number of layers."""
    layers = [m for m in model.modules() if isinstance(getattr(m, "attn", None), MultiScaleDeformableAttention)]
    for layer in layers:
        layer.attn = DeformAttn()
    return len(layers)


@torch.inference_mode()
def run_timed(model: nn.Module, image: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return class logits, boxes, and the best of three times in seconds."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        output = model(image)
        seconds.append(time.perf_counter() - start)
    return output.logits, output.pred_boxes, min(seconds)


def main() -> None:
    """Compare a model with random weights before and after the replacement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(384, 640), metavar=("H", "W"))
    parser.add_argument("--layers", type=int, default=6, help="number of encoder and of decoder layers")
    options = parser.parse_args()
    torch.manual_seed(0)
    backbone = ResNetConfig(depths=[1, 1, 1, 1], out_features=["stage2", "stage3", "stage4"])
    config = DeformableDetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone,
        encoder_layers=options.layers, decoder_layers=options.layers, num_labels=10, with_box_refine=True,
    )  # fmt: skip
    model = DeformableDetrForObjectDetection(config).eval()
    for name, parameter in model.named_parameters():
        if "sampling_offsets.weight" in name or "attention_weights.weight" in name:
            nn.init.normal_(parameter, std=0.05)  # they start as zeros, with which the queries would have no effect
    image = torch.randn(1, 3, *options.size)

    logits, boxes, before = run_timed(model, image)
    layers = replace_attention(model)
    new_logits, new_boxes, after = run_timed(model, image)
    print(f"{layers} attention layers replaced; kernels: {kernel_status()}")
    difference = (new_logits - logits).abs().max()
    print(f"largest difference in logits: {difference:.1e}; largest logit: {logits.abs().max():.1f}")
    print(f"largest difference in boxes: {(new_boxes - boxes).abs().max():.1e}")
    print(f"{before:.3f} s before, {after:.3f} s after: {before / after:.1f} times as fast")


if __name__ == "__main__":
    main()
