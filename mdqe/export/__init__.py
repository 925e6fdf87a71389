"""A model as two programs that run without this package: torch.export (.pt2) and ONNX files.

The frame encoder sees every frame once; the clip decoder takes the encodings of a clip's frames. Tracking joins the
clips to a video and stays outside.
"""

from mdqe.export.folder import export_model

__all__ = ["export_model"]
