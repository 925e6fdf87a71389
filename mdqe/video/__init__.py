"""Reading videos and images, drawing results on them, and writing video files."""

from pathlib import Path
from typing import Any

from mdqe.errors import DependencyError


def require_av() -> Any:
    """Import PyAV.

    Raises:
        DependencyError: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise DependencyError("reading and writing video needs PyAV: pip install 'mdqe[video]'") from None
    return av


def is_address(source: str) -> bool:
    """Whether a source is an address, such as rtsp://camera, and not a path."""
    return "://" in source


def local_file(path: str | Path) -> str:
    """A path as libav takes it: without the prefix, it reads a colon in a file name as the end of a protocol."""
    return f"file:{path}"
