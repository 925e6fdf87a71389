"""`QueryInitializer` and `TemporalCrossAttention` in a plain DETR: queries start on objects and attend to all frames.

    python examples/video_detr.py [STEPS]

The model learns to find a white square that moves through a noisy clip.
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdqe import QueryInitializer, TemporalCrossAttention

T, SIZE = 3, 64  # frames per clip, height and width


class VideoDETR(nn.Module):
    """Predicts Q boxes for a clip."""

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, dim, kernel_size=8, stride=8), nn.GELU(), nn.Conv2d(dim, dim, 1))
        self.position = nn.Parameter(torch.randn((SIZE // 8) ** 2, dim) / 8)
        self.encoder = nn.TransformerEncoderLayer(dim, 4, 128, dropout=0.0, batch_first=True)
        self.query_init = QueryInitializer(dim, num_classes=1, grid_size=4, embed_dim=16)
        self.time_attention = TemporalCrossAttention(dim, num_heads=4, num_frames=T)
        self.decoder = nn.TransformerDecoderLayer(dim, 4, 128, dropout=0.0, batch_first=True)
        self.object_head, self.box_head = nn.Linear(dim, 1), nn.Linear(dim, 4)

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Clip (B, T, 3, H, W) → boxes (B, Q, 4), logits (B, Q), and logits of the activation map (B·T, 1, h, w)."""
        maps = self.stem(clip.flatten(0, 1))  # (B·T, C, h, w)
        shapes = (tuple(maps.shape[-2:]),)  # one level
        tokens = self.encoder(maps.flatten(2).mT + self.position).unflatten(0, clip.shape[:2])  # (B, T, N, C)
        queries = self.query_init(tokens, shapes, None)  # of each frame alone: to associate them, train the embeddings
        content, point = queries.content[:, T // 2], queries.coords[:, T // 2]  # (B, Q, C), (B, Q, 2)
        reference = torch.cat([point, torch.full_like(point, 0.5)], -1)  # (B, Q, 4): half the image around the point
        attended = self.time_attention(content, reference, self.time_attention.project_value(tokens), shapes)
        x = self.decoder(content + attended, tokens[:, T // 2])  # (B, Q, C)
        offset, size = self.box_head(x).split(2, dim=-1)
        boxes = torch.cat([point + offset.tanh() / 2, size.sigmoid()], -1)
        return boxes, self.object_head(x)[..., 0], queries.activation.flatten(0, 1)


def clips(number: int) -> tuple[Tensor, Tensor]:
    """Clips (B, T, 3, H, W) with one square each, and its box in the middle frame (B, 4)."""
    frames, edge = torch.rand(number, T, 3, SIZE, SIZE) / 2, torch.randint(12, 24, (number, 1))
    corner, speed = (torch.rand(number, 2) * (SIZE - edge)).long(), torch.randint(-4, 5, (number, 2))
    for b, t in torch.cartesian_prod(torch.arange(number), torch.arange(T)).tolist():
        x, y = (corner[b] + speed[b] * (t - T // 2)).clamp(min=0).tolist()
        frames[b, t, :, y : y + edge[b], x : x + edge[b]] = 1
    return frames, torch.cat([corner + edge / 2, edge, edge], 1) / SIZE


def main(steps: int) -> None:
    """Train, and print the box error of the highest-scoring query on other clips."""
    torch.manual_seed(0)
    model, (test_clips, test_boxes) = VideoDETR(), clips(32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps + 1):
        if step in (0, steps):
            boxes, logits, _ = model(test_clips)
            best = boxes[range(len(boxes)), logits.argmax(1)]
            print(f"step {step}: {(best - test_boxes).abs().mean() * SIZE:.1f} pixels off")
        frames, box = clips(8)
        boxes, logits, activation = model(frames)
        error, nearest = (boxes - box[:, None]).abs().sum(-1).min(1)  # (B,)
        target = F.adaptive_avg_pool2d(frames.flatten(0, 1)[:, :1].floor(), activation.shape[-2:])  # (B·T, 1, h, w)
        loss = F.binary_cross_entropy_with_logits(activation, target)
        loss = loss + 5 * error.mean() + F.cross_entropy(logits, nearest)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main(steps=int(sys.argv[1]) if len(sys.argv) > 1 else 150)
