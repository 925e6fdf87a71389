"""MDQE on a timm backbone of one's choice: built, trained for a few steps, run over a video.

    python examples/timm_backbone.py convnext_atto
    python examples/timm_backbone.py efficientnet_b0 --steps 200

Any timm model with feature maps at strides 8, 16 and 32 will do; weights are random here, `Backbone(name,
pretrained=True)` or `mdqe train --init imagenet` fetch those of ImageNet.
"""

import argparse

import torch
from torch.utils.data import DataLoader

from mdqe import MDQE, MDQEConfig
from mdqe.data.loader import MixedClips, StepSampler, collate
from mdqe.data.synthetic import CATEGORIES, SyntheticClips, generate


def main() -> None:
    """Build, train, segment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", nargs="?", default="convnext_atto", help="name of a timm model (convnext_atto)")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.manual_seed(0)
    config = MDQEConfig(
        backbone=options.backbone, frozen_batch_norm=False, hidden_dim=64, encoder_layers=1, decoder_layers=2,
        grid_size=8, clip_length=2, test_clip_length=2, test_shorter_edge=None, window_length=6,
        num_classes=len(CATEGORIES), categories=CATEGORIES, score_threshold=0.01,
    )  # fmt: skip
    model = MDQE(config)
    parameters = sum(p.numel() for p in model.backbone.parameters())
    print(f"{options.backbone}: {parameters / 1e6:.1f} M parameters, maps of {model.backbone.channels} channels")

    clips = MixedClips([SyntheticClips(frames=config.clip_length, size=(96, 128), difficulty="easy")])
    loader = DataLoader(clips, batch_sampler=StepSampler(2, 0, options.steps), collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for step, (frames, targets) in enumerate(loader, start=1):
        loss = sum(model.loss(frames, targets).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step in (1, options.steps):
            print(f"step {step}: loss {loss.item():.2f}")

    video, _ = generate(seed=99, frames=8, size=(96, 128), difficulty="easy")
    print(model.segment(video, score_threshold=0.0))


if __name__ == "__main__":
    main()
