"""Uploads to `mdqe app`: the size of the whole request is limited, and each of its parts must be a file."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
FIELD = b"files"


class _Parts:
    """Parses an upload and checks the header of each part. Gradio fails if a part is not a file."""

    def __init__(self, boundary: str) -> None:
        from python_multipart.multipart import MultipartParser

        self.name = self.value = self.disposition = b""
        self.is_complete = False
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": self._add_name,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._check,
            "on_end": self._end,
        }
        self.parser = MultipartParser(boundary.encode(), callbacks)

    def _begin(self) -> None:
        self.name = self.value = self.disposition = b""

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self.name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def _end_header(self) -> None:
        if self.name.lower() == b"content-disposition":
            self.disposition = self.value
        self.name = self.value = b""

    def _check(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self.disposition)
        if options.get(b"name") != FIELD or b"filename" not in options:
            raise _refusal("expected files only")

    def _end(self) -> None:
        self.is_complete = True


def _refusal(text: str) -> Exception:
    """The error on which Gradio deletes what it has stored of a request. It responds with status 400 or 413."""
    from starlette.formparsers import MultiPartException

    return MultiPartException(text)


def checked_upload(receive: Receive, boundary: str, limit: int) -> Receive:
    """A `receive` that raises the error of `_refusal` if a request is too large, malformed or not completed.

    Args:
        receive: returns the body of the request in pieces.
        boundary: the boundary of its parts.
        limit: maximum number of bytes of the body.
    """
    from python_multipart.exceptions import MultipartParseError

    parts, size = _Parts(boundary), 0

    async def checked() -> MutableMapping[str, Any]:
        nonlocal size
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _refusal("the connection was closed")
        body = message.get("body", b"")
        size += len(body)
        if size > limit:
            raise _refusal(f"the request exceeds the maximum allowed size of {limit} bytes")
        try:
            parts.parser.write(body)
        except MultipartParseError as error:
            raise _refusal(f"malformed: {error}") from error
        if not (message.get("more_body", False) or parts.is_complete):
            raise _refusal("the request is truncated")
        return message

    return checked
