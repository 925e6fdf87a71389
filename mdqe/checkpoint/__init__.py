"""Weights from other code: read their files, find the preset, rename the tensors, and adapt them to longer clips."""

from mdqe import lazy_names

_HOME = {
    "Checkpoint": "mdqe.checkpoint.files",
    "OfficialSizes": "mdqe.checkpoint.sizes",
    "Start": "mdqe.checkpoint.starting_points",
    "convert_official": "mdqe.checkpoint.layout",
    "dropped": "mdqe.checkpoint.layout",
    "initialize": "mdqe.checkpoint.starting_points",
    "inflate_temporal": "mdqe.checkpoint.layout",
    "matching_presets": "mdqe.checkpoint.sizes",
    "official_sizes": "mdqe.checkpoint.sizes",
    "read_checkpoint": "mdqe.checkpoint.files",
    "read_official": "mdqe.checkpoint.files",
}

__all__ = [*_HOME]
__getattr__, __dir__ = lazy_names(__name__, _HOME)
