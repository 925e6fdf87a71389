"""Exporting a model as two programs that run without this package: torch.export (.pt2) or ONNX files.

The frame encoder encodes each frame once. The clip decoder takes the encodings of the frames of a clip. Tracking, which
joins the clips to a video, is not exported.
"""

from mdqe.export.folder import export_model

__all__ = ["export_model"]
