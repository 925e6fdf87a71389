"""Identities for torchvision's Mask R-CNN, frame by frame.

    python examples/link_torchvision.py

The model of this example is small and has random weights, because nothing is downloaded. For real ones, use
`maskrcnn_resnet50_fpn_v2(weights="DEFAULT")`.
"""

import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

import mdqe
from mdqe.data.synthetic import draw_video


class Backbone(torch.nn.Sequential):
    """A few convolutions with the attribute that torchvision needs."""

    out_channels = 16

    def __init__(self) -> None:
        super().__init__(torch.nn.Conv2d(3, 16, 7, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3, 2, 1))


def main() -> None:
    """Detect and link the frames of a scene."""
    torch.manual_seed(0)
    anchors = AnchorGenerator(((24, 48),), ((0.5, 1.0, 2.0),))
    sizes = {"min_size": 96, "max_size": 160, "box_detections_per_img": 5, "box_score_thresh": 0.0}
    model = MaskRCNN(Backbone(), num_classes=3, rpn_anchor_generator=anchors, **sizes).eval()
    model.roi_heads.mask_predictor.mask_fcn_logits.bias.data.fill_(1.0)  # random weights find no pixels otherwise
    video = draw_video(3, 2, frames=6, size=(96, 144)).frames  # (T, H, W, 3) uint8
    linker = mdqe.Linker(start_score=0.2)
    for t, frame in enumerate(video):
        with torch.inference_mode():
            (found,) = model([torch.from_numpy(frame).permute(2, 0, 1) / 255])
        ids = linker.push(found["masks"], found["scores"], found["labels"])  # masks (D, 1, H, W) from 0 to 1
        print(f"frame {t}: masks {tuple(found['masks'].shape)}, ids {ids.tolist()}")
    print(f"{linker.num_tracks} tracks")


if __name__ == "__main__":
    main()
