"""MDQE: video instance segmentation that mines discriminative query embeddings (CVPR 2023).

Public names load on first use, so `import mdqe` is quick and one part does not import the others.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def lazy_names(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for the `__init__` of a package that loads its public names on first use (PEP 562).

    Args:
        package: the name of the package.
        home: the module that defines each name. Where this is "PACKAGE.NAME", the name is the module itself.
    """

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = import_module(home[name])
        if home[name] != f"{package}.{name}":
            value = getattr(value, name)
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: sorted(sys.modules[package].__all__)


_HOME = {
    "MDQE": "mdqe.model",
    "MDQEConfig": "mdqe.config",
    "QueryInitializer": "mdqe.modeling.query_init",
    "O2IDecoderLayer": "mdqe.modeling.decoder",
    "TemporalCrossAttention": "mdqe.modeling.decoder",
    "Decoder": "mdqe.modeling.decoder",
    "DecoderState": "mdqe.modeling.decoder",
    "LayerValues": "mdqe.modeling.decoder",
    "FrameQueries": "mdqe.modeling.query_init",
    "InterInstanceMaskLoss": "mdqe.losses.mask",
    "ClipTargets": "mdqe.targets",
    "ClipTracker": "mdqe.inference.tracker",
    "Linker": "mdqe.inference.linker",
    "link": "mdqe.inference.link_video",
    "VideoInstances": "mdqe.results.instances",
    "MDQEImageProcessor": "mdqe.inference.image_processor",
}
_SUBMODULES = (
    "checkpoint", "data", "errors", "evaluation", "export", "inference", "losses", "ops", "training", "video"
)  # fmt: skip
_HOME |= {name: f"mdqe.{name}" for name in _SUBMODULES}

__all__ = ["__version__", *_HOME]
__getattr__, __dir__ = lazy_names(__name__, _HOME)
