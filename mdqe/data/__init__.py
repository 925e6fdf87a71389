"""Training data: clips of annotated videos, images and synthetic scenes, their augmentation, and batches."""

from mdqe import lazy_names

_HOME = {
    "CATEGORIES": "mdqe.data.shapes",
    "ClipAugmentation": "mdqe.data.augment",
    "ClipSource": "mdqe.data.loader",
    "Difficulty": "mdqe.data.scene",
    "MixedClips": "mdqe.data.loader",
    "PseudoClips": "mdqe.data.coco",
    "StepSampler": "mdqe.data.loader",
    "SyntheticClips": "mdqe.data.synthetic",
    "VideoClips": "mdqe.data.ytvis",
    "collate": "mdqe.data.loader",
    "demo_scene": "mdqe.data.synthetic",
    "draw_video": "mdqe.data.synthetic",
    "generate": "mdqe.data.synthetic",
    "map_categories": "mdqe.data.coco",
    "write_set": "mdqe.data.synthetic_files",
}

__all__ = [*_HOME]
__getattr__, __dir__ = lazy_names(__name__, _HOME)
