"""The progress bar, in a terminal and without one."""

import os
import re
import sys
import time

import pytest

from mdqe.cli import Progress, progress

pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
PROGRAM = """
import time
from mdqe.cli import progress
for _ in progress(range({count}), "clip.mp4", {count}):
    time.sleep({seconds})
"""


def in_terminal(program: str) -> str:
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", program])
    written = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # on Linux: the other end is closed
            break
        if not piece:
            break
        written += piece
    os.waitpid(child, 0)
    os.close(terminal)
    return written.decode()


def test_a_terminal_shows_speed_and_time_left():
    written = in_terminal(PROGRAM.format(count=30, seconds=0.02))
    assert re.search(r"clip\.mp4: +\d+%.*30 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+ frames/s\]", written)


def test_slow_work_is_shown_in_frames_per_second_too():
    written = in_terminal(PROGRAM.format(count=2, seconds=1.3))
    assert re.search(r"2/2 \[\d\d:\d\d<\d\d:\d\d, +0\.7\d frames/s\]", written)


def test_work_after_the_last_item_counts(capsys):
    with Progress("clip.mp4", 3) as bar:
        assert list(bar.follow([1, 2, 3])) == [1, 2, 3]
        time.sleep(0.3)
    assert 0.3 <= bar.seconds < 3
    assert f"({3 / bar.seconds:.2f} frames/s)" in capsys.readouterr().err


def test_without_a_terminal_it_prints_one_line_at_the_end(capsys):
    assert list(progress(iter([1, 2, 3]), "clip.mp4", None)) == [1, 2, 3]
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"clip\.mp4: 3 frames in [\d.]+ s \([\d.]+ frames/s\)\n", err)


def test_the_line_is_also_printed_after_an_error(capsys):
    def frames():
        yield 1
        raise KeyError

    with pytest.raises(KeyError):
        list(progress(frames(), "clip.mp4", 9))
    assert "clip.mp4: 1 frames" in capsys.readouterr().err
