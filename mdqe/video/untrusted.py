"""Video files from strangers."""

from pathlib import Path
from typing import Any, ClassVar

from mdqe.video.decode import VideoFile
from mdqe.video.frames import Frames, VideoError

CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "gif")
"""Demuxers of files that hold their pictures themselves. The others are playlists and the like, which make libav open
further files and addresses: a playlist under the name of a video shows what lies on the machine that plays it."""


class UntrustedVideo(VideoFile):
    """A video file whose content may be meant to do harm.

    It is opened only by the demuxers of CONTAINERS, which read no other file and no address, and is refused before a
    picture of more than `max_pixels` is decoded. Messages call it by its name, without its folder.
    """

    container_options: ClassVar = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}

    def __init__(self, path: str | Path, *, max_pixels: int = 4096 * 2304, **selection: Any) -> None:
        Frames.__init__(self, Path(path).name, **selection)
        self.path, self.max_pixels = str(path), max_pixels
        self._probe()

    def _open(self) -> Any:
        container = super()._open()
        for stream in container.streams.video:
            if stream.width * stream.height > self.max_pixels:
                container.close()
                raise VideoError(
                    f"{self.name} is {stream.width}x{stream.height}; expected at most {self.max_pixels} pixels a frame"
                )
            # The frames may be larger than announced; codecs need some room at the edges.
            stream.codec_context.options = {"max_pixels": str(2 * self.max_pixels)}
        return container
