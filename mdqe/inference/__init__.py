"""Near-online inference: all state of a video (windows, tracks, results)."""

from mdqe import lazy_names

_HOME = {
    "ClipTracker": "mdqe.inference.tracker",
    "Linker": "mdqe.inference.linker",
    "MDQEImageProcessor": "mdqe.inference.image_processor",
    "VideoSession": "mdqe.inference.session",
    "link": "mdqe.inference.link_video",
}

__all__ = [*_HOME]
__getattr__, __dir__ = lazy_names(__name__, _HOME)
