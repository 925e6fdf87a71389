"""Train transformers' Mask2Former with the inter-instance mask loss, which separates masks of neighbouring objects.

    pip install mdqe transformers
    python examples/mask2former_loss.py

A Mask2Former with random weights is trained for a few steps on one synthetic scene of shapes that hide one another.
"""

import argparse

import torch
from torch.nn import functional as F
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from mdqe import InterInstanceMaskLoss
from mdqe.data import CATEGORIES, generate


class InterInstanceCriterion(Mask2FormerLoss):
    """Mask2Former's criterion with the inter-instance loss on whole masks, instead of a loss on sampled points."""

    mask_loss = InterInstanceMaskLoss()

    def loss_masks(self, masks_queries_logits, mask_labels, indices, num_masks):
        """BCE and Dice losses of the matched queries, from logits (B, Q, h, w) and masks (K, H, W) per image."""
        size = masks_queries_logits.shape[-2:]
        masks = [F.interpolate(m[None], size, mode="bilinear", antialias=True)[0] for m in mask_labels]  # (K, h, w)
        logits = torch.cat([x[q] for x, (q, _) in zip(masks_queries_logits, indices, strict=True)])  # (N, h, w)
        masks = torch.cat([m[k] for m, (_, k) in zip(masks, indices, strict=True)])  # (N, h, w)
        image = torch.tensor([i for i, (q, _) in enumerate(indices) for _ in q], device=logits.device)  # (N,)
        bce, dice = self.mask_loss(logits[:, None], masks[:, None], clip_index=image, normalizer=num_masks)
        return {"loss_mask": bce, "loss_dice": dice}


def small_model(labels: int) -> Mask2FormerForUniversalSegmentation:
    """A small Mask2Former."""
    backbone = SwinConfig(
        embed_dim=24, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    sizes = {"feature_size": 64, "mask_feature_size": 64, "hidden_dim": 64, "encoder_feedforward_dim": 128}
    layers = {"encoder_layers": 1, "decoder_layers": 3, "dim_feedforward": 128, "num_attention_heads": 4}
    config = Mask2FormerConfig(backbone_config=backbone, num_queries=20, num_labels=labels, **sizes, **layers)
    model = Mask2FormerForUniversalSegmentation(config)
    model.criterion = InterInstanceCriterion(config, model.weight_dict)  # the only change in a training script
    return model


def main() -> None:
    """Train on two frames of a scene and print the loss before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    frames, targets = generate(seed=7, frames=2, size=(128, 192), difficulty="hard")
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255  # (2, 3, H, W)
    masks = [m[m.any((1, 2))].float() for m in targets.masks.unbind(1)]
    labels = [targets.labels[m.any((1, 2))] for m in targets.masks.unbind(1)]
    model = small_model(len(CATEGORIES)).train()
    neighbors = model.criterion.mask_loss.neighbors(targets.boxes[:, :1] / torch.tensor([192, 128, 192, 128]))
    print(f"{len(labels[0])} shapes, {(int(neighbors.sum()) - len(neighbors)) // 2} pairs of neighbours")

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps + 1):
        loss = model(pixels, mask_labels=masks, class_labels=labels).loss
        if step in (0, steps):
            print(f"step {step}: loss {loss.item():.2f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
