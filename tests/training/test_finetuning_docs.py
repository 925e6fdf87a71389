"""The code of docs/finetuning.md runs in order and does what the page says."""

import pytest
import torch
from doc_pages import ROOT, blocks, run_python

PAGE = ROOT / "docs" / "finetuning.md"


def test_the_page(tmp_path, monkeypatch, capsys):
    if not PAGE.is_file():
        pytest.skip("the pages are not installed with the package")
    monkeypatch.chdir(tmp_path)
    loop, saving, resuming, validation, own, categories, other = blocks(PAGE)
    names: dict = {}
    run_python(loop, names)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["step 4", "step 8", "step 12"]
    assert names["frames"].shape == (2, 3, 3, 64, 96) and names["frames"].dtype == torch.uint8
    assert len(names["losses"]) == 3 + 5 * (1 + names["model"].config.decoder_layers)

    run_python(saving, names)
    trained, restored = names["model"].state_dict(), names["restored"].state_dict()
    bundled = type(names["model"]).from_pretrained("mdqe:tiny").state_dict()
    assert all(torch.equal(trained[name], restored[name]) for name in trained)
    assert not torch.equal(trained["class_head.layers.0.weight"], bundled["class_head.layers.0.weight"])

    run_python(resuming, names)
    assert next(iter(names["sampler"])) == [24, 25]  # after 12 steps of 2 clips
    assert names["schedule"].last_epoch == 12

    run_python(validation, names)
    assert names["model"].training
    assert -1 <= names["metrics"]["AP"] <= 1

    run_python(own, names)
    assert names["own"].ids.tolist() == [[-1, 0, 0]]
    assert names["own"].boxes[0, 1].tolist() == [20, 10, 60, 40]

    run_python(categories, names)
    assert names["model"].config.categories == ("cat", "dog")
    assert names["model"].class_head.last.out_features == 2

    run_python(other, names)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["backbone.body", "100", "100"] for line in lines)
    assert torch.equal(names["small"].backbone.body.conv1.weight, names["other"].conv1.weight)
