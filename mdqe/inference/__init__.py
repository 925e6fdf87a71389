"""Near-online inference: all state of a video (windows, tracks, results)."""

from mdqe import lazy_names

_HOME = {
    "ClipTracker": "mdqe.inference.tracker",
    "MDQEImageProcessor": "mdqe.inference.image_processor",
    "VideoSession": "mdqe.inference.session",
}

__all__ = [*_HOME]
__getattr__, __dir__ = lazy_names(__name__, _HOME)
