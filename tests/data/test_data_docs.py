"""The code of docs/data.md runs, in order, and does what the page says."""

import json
from pathlib import Path

import pytest
import torch
from doc_pages import ROOT, blocks, run_python

from mdqe.data.ytvis import VideoClips
from mdqe.errors import InputError

PAGE = ROOT / "docs" / "data.md"


def test_the_page(tmp_path, monkeypatch, capsys):
    if not PAGE.is_file():
        pytest.skip("the pages are not installed with the package")
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    known: dict = {}
    for block in blocks(PAGE):
        if block.language == "python":
            run_python(block, known)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 ('square',)"
    assert lines[1].startswith("tensor([0]) torch.Size([1, 4, ")
    assert lines[2] == "2 []"
    assert lines[3] == "['00000.png', '00001.png'] []"
    assert len(lines) == 9 and all(line.startswith("torch.Size([2, 4, 3, ") for line in lines[4:])
    masks = [one["segmentations"] for one in json.loads(Path("squares/annotations.json").read_text())["annotations"]]
    assert [one["segmentations"] for one in known["again"]["annotations"]] == masks

    frames, targets = VideoClips("squares/annotations.json", "squares/JPEGImages", 6).clip(0, torch.Generator())
    assert torch.equal(targets.masks[0], frames[:, 0] > 135)
    assert targets.ids.tolist() == [[-1, 0, 0, 0, 0, 0]]

    document = json.loads(Path("squares/annotations.json").read_text())
    document["annotations"][1]["category_id"] = 7
    document["annotations"].append({**document["annotations"][0], "id": 3, "video_id": 2})
    Path("squares/annotations.json").write_text(json.dumps(document))
    for name in ("first/00003", "second/00000"):
        Path(f"squares/JPEGImages/{name}.jpg").unlink()
    with pytest.raises(InputError) as error:
        VideoClips("squares/annotations.json", "squares/JPEGImages")
    assert str(error.value) in text
