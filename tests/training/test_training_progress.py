"""The bar on a terminal, lines elsewhere, silence where another process speaks."""

import io
import sys

from mdqe.training.progress import Progress

VALUES = {"loss": 12.345, "class": 1.0, "mask": 2.0, "mask_0": 3.0, "seconds": 0.5}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def go(monkeypatch, stream, **options):
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress(10, 4, **options)
    for _ in range(2):
        progress.advance()
    progress.show(VALUES)
    progress.say("a word")
    progress.advance()
    progress.bar.refresh()
    progress.close()
    return stream.getvalue()


def test_a_bar_on_a_terminal(monkeypatch):
    text = go(monkeypatch, Terminal())
    assert "7/10" in text and "loss 12.3 class 1 mask 2 0.5 s/step" in text and "a word\n" in text
    assert "mask_0" not in text


def test_lines_elsewhere(monkeypatch):
    lines = go(monkeypatch, io.StringIO()).splitlines()
    assert len(lines) == 2 and lines[1] == "a word"
    assert lines[0].startswith("step 6/10  loss 12.3 class 1 mask 2  0.5 s/step, 0:00:0")


def test_silence(monkeypatch):
    assert go(monkeypatch, io.StringIO(), shown=False) == go(monkeypatch, Terminal(), shown=False) == ""
