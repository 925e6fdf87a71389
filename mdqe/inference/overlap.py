"""Two groups of frames beside one another: a thread resizes frames, and the tracker has a CUDA stream of its own.

A GPU works through its queue while the host goes on. The host first puts the encoder of the next group into the queue
and then tracks the group before it. The tracker reads results back for every clip. On the queue of the encoder, these
transfers would wait for the encoder; on a stream of their own they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor


class Overlap:
    """A thread that resizes frames, and a CUDA stream for the tracker; on a CPU only the thread.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mdqe-resize")
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._decoded: torch.cuda.Event | None = None

    def submit(self, resize: Callable[[], Tensor]) -> Future[Tensor]:
        """Resize a frame in the thread. The result raises its exceptions."""
        return self._pool.submit(resize)

    def mark(self) -> None:
        """Mark the place in the queue after which `beside` may begin."""
        if self._stream is not None:
            self._decoded = torch.cuda.current_stream(self._stream.device).record_event()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Put work into the stream of its own, after the work before `mark`.

        Later work of the current stream waits for it. So tensors of one stream may be freed while the other uses them.
        """
        if self._stream is None:
            yield
            return
        current = torch.cuda.current_stream(self._stream.device)
        if self._decoded is not None:
            self._stream.wait_event(self._decoded)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def close(self) -> None:
        """End the thread after its current frame."""
        self._pool.shutdown(wait=True, cancel_futures=True)
