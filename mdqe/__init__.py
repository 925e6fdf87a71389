"""MDQE: video instance segmentation that mines discriminative query embeddings (CVPR 2023).

Public names load on first use, so `import mdqe` is quick and one part does not pull in the others.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "MDQE": "mdqe.model",
    "MDQEConfig": "mdqe.config",
    "QueryInitializer": "mdqe.modeling.query_init",
    "O2IDecoderLayer": "mdqe.modeling.decoder",
    "TemporalCrossAttention": "mdqe.modeling.decoder",
    "InterInstanceMaskLoss": "mdqe.losses.mask",
    "ClipTargets": "mdqe.targets",
    "ClipTracker": "mdqe.inference.tracker",
    "VideoInstances": "mdqe.results.instances",
    "MDQEImageProcessor": "mdqe.inference.image_processor",
}
_SUBMODULES = ("checkpoint", "data", "evaluation", "export", "inference", "losses", "ops", "training", "video")

__all__ = ["__version__", *_HOME, *_SUBMODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _SUBMODULES:
        value = import_module(f"mdqe.{name}")
    else:
        raise AttributeError(f"module 'mdqe' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
