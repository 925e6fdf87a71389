"""Reading videos and images, drawing results on them, and writing video files."""

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
