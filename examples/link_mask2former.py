"""Identities for transformers' Mask2Former, which segments single images.

    pip install transformers
    python examples/link_mask2former.py

The model of this example is small and has random weights, because nothing is downloaded. For real ones, use
`Mask2FormerForUniversalSegmentation.from_pretrained(…)`. The states of its queries serve as embeddings.
"""

import torch
from torch.nn import functional as F
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

import mdqe
from mdqe.data.synthetic import draw_video


def build() -> Mask2FormerForUniversalSegmentation:
    """A Mask2Former with a tiny Swin transformer."""
    backbone = SwinConfig(
        image_size=96, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], window_size=3,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
        dim_feedforward=32, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=8, num_labels=3,
    )  # fmt: skip
    return Mask2FormerForUniversalSegmentation(config).eval()


def segment(model: Mask2FormerForUniversalSegmentation, frame: torch.Tensor) -> dict[str, torch.Tensor]:
    """The best queries of a frame (H, W, 3) uint8: mask logits, scores, labels and embeddings."""
    with torch.inference_mode():
        output = model((frame.permute(2, 0, 1)[None] / 127.5 - 1), output_hidden_states=True)
    scores, labels = output.class_queries_logits[0].softmax(-1)[:, :-1].max(-1)  # the last class is "no object"
    best = scores.topk(4).indices
    logits = F.interpolate(output.masks_queries_logits, frame.shape[:2], mode="bilinear")[0]
    embeddings = output.transformer_decoder_last_hidden_state[0]
    values = {"masks": logits, "scores": scores, "labels": labels, "embeddings": embeddings}
    return {name: value[best] for name, value in values.items()}


def main() -> None:
    """Segment every frame of a scene and link the results."""
    torch.manual_seed(0)
    model = build()
    video = draw_video(3, 2, frames=6, size=(96, 96)).frames
    found = [segment(model, torch.from_numpy(frame)) for frame in video]
    masks, *others = ([one[name] for one in found] for name in ("masks", "scores", "labels", "embeddings"))
    options = {"start_score": 0.2, "logits": True, "rejoin": True, "categories": ("cat", "dog", "bird")}
    print(mdqe.link(masks, **dict(zip(("scores", "labels", "embeddings"), others, strict=True)), **options))


if __name__ == "__main__":
    main()
