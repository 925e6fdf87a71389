"""Training losses. Names load on first use: `InterInstanceMaskLoss` needs torch alone."""

from importlib import import_module
from typing import Any

_HOME = {
    "Criterion": "mdqe.losses.criterion",
    "DynamicMatcher": "mdqe.losses.matcher",
    "InterInstanceMaskLoss": "mdqe.losses.mask",
    "PlainMaskLoss": "mdqe.losses.mask",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mdqe.losses' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
