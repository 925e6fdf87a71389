"""Build MDQE on any timm backbone, train it for a few steps on clips of one scene, and segment that scene.

    python examples/timm_backbone.py convnext_atto
    python examples/timm_backbone.py efficientnet_b0 --steps 200

Any timm model with feature maps at strides 8, 16 and 32 works. The weights in this example are random.
`Backbone(name, pretrained=True)` and `mdqe train --init imagenet` download ImageNet weights.
"""

import argparse

import torch
from torch.utils.data import DataLoader

from mdqe import MDQE, MDQEConfig
from mdqe.data import CATEGORIES, MixedClips, StepSampler, SyntheticClips, collate, generate


def main() -> None:
    """Build, train, segment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", nargs="?", default="convnext_atto", help="timm model (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.manual_seed(0)
    config = MDQEConfig(
        backbone=options.backbone, frozen_batch_norm=False, hidden_dim=64, encoder_layers=1, decoder_layers=2,
        grid_size=8, clip_length=2, test_clip_length=2, test_shorter_edge=None, window_length=6,
        num_classes=len(CATEGORIES), categories=CATEGORIES, score_threshold=0.01,
    )  # fmt: skip
    model = MDQE(config)
    parameters = sum(p.numel() for p in model.backbone.parameters())
    print(f"{options.backbone}: {parameters / 1e6:.1f} M parameters, maps with {model.backbone.channels} channels")

    scene = {"seed": 99, "size": (96, 128), "difficulty": "easy"}
    clips = SyntheticClips(length=1, frames=config.clip_length, scene_frames=8, **scene)
    batches = StepSampler(4, 0, options.steps)
    loader = DataLoader(MixedClips([clips]), batch_sampler=batches, collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step, (frames, targets) in enumerate(loader, start=1):
        loss = sum(model.loss(frames, targets).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step in (1, options.steps):
            print(f"step {step}: loss {loss.item():.2f}")

    video, truth = generate(frames=8, **scene)
    result = model.segment(video, score_threshold=0.1)
    print(result)
    for mask in result.masks:  # (T, H, W)
        shared = truth.masks.numpy() & mask  # (K, T, H, W)
        print(f"IoU {(shared.sum((1, 2, 3)) / (truth.masks.numpy() | mask).sum((1, 2, 3))).max():.2f}")


if __name__ == "__main__":
    main()
