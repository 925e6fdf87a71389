"""Training losses. Names load on first use: `InterInstanceMaskLoss` needs torch alone."""

from mdqe import lazy_names

_HOME = {
    "Criterion": "mdqe.losses.criterion",
    "DynamicMatcher": "mdqe.losses.matcher",
    "InterInstanceMaskLoss": "mdqe.losses.mask",
    "PlainMaskLoss": "mdqe.losses.mask",
    "scale_targets": "mdqe.losses.targets",
}

__all__ = [*_HOME]
__getattr__, __dir__ = lazy_names(__name__, _HOME)
