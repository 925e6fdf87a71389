"""BURST's JSON with sparse frames."""

import json
from pathlib import Path

import pytest
import truths
from truths import FRAMES, SIZE, compressed, scenes, write_frames

from mdqe.annotations.problems import Problems
from mdqe.errors import InputError
from mdqe.importing.formats import import_annotations

KINDS = {"cup": 347, "person": 805}


def write_set(folder: Path, split: str = "") -> tuple[list[truths.Truth], dict[str, list[str]]]:
    """all_classes.json and the frames of two videos, of which the third frame is not annotated."""
    videos, files, sequences = scenes(("AVA/one", "HACS/two"), categories=tuple(KINDS)), {}, []
    for number, video in enumerate(videos, 1):
        names = write_frames(folder / "frames" / split / video.name, pattern="frame{:04}.jpg", first=1)
        kept = [t for t in range(FRAMES) if t != 2]
        files[video.name] = [f"{split}/{video.name}/{names[t]}".lstrip("/") for t in kept]
        objects = list(zip(video.ids, video.masks, strict=True))
        masks = [{str(i): {"rle": compressed(mask[t])} for i, mask in objects if mask[t].any()} for t in kept]
        one = {"id": number, "dataset": video.name.split("/")[0], "seq_name": video.name.split("/")[1]}
        one |= {"height": SIZE[0], "width": SIZE[1], "all_image_paths": names}
        one |= {"annotated_image_paths": [names[t] for t in kept], "segmentations": masks}
        kinds = {str(i): KINDS[name] for i, name in zip(video.ids, video.categories, strict=True)}
        sequences.append(one | {"track_category_ids": kinds, "neg_category_ids": [], "not_exhaustive_category_ids": []})
    categories = [{"id": number, "name": name} for name, number in KINDS.items()]
    document = {"split": "val", "sequences": sequences, "categories": categories}
    (folder / "all_classes.json").write_text(json.dumps(document))
    return [video._replace(masks=video.masks[:, kept]) for video in videos], files


@pytest.mark.parametrize(("source", "split"), [("all_classes.json", ""), (".", "val")])
def test_sparse_frames(tmp_path, source, split):
    videos, files = write_set(tmp_path, split)
    notes = Problems()
    document = import_annotations(tmp_path / source, notes=notes)
    truths.assert_equal(document, videos, files)
    assert document["categories"] == [{"id": 347, "name": "cup"}, {"id": 805, "name": "person"}]
    assert any(line.startswith("images without annotations, left out (2): ") for line in notes.lines())


def test_problems_are_named(tmp_path):
    write_set(tmp_path)
    path = tmp_path / "all_classes.json"
    document = json.loads(path.read_text())
    document["sequences"][0]["segmentations"][0]["2"] = {"rle": "0"}
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"sequence 0 \(AVA/one\): track 2 in frame0001.jpg: counts"):
        import_annotations(path)
    document["sequences"][0]["dataset"] = "YFCC100M"
    path.write_text(json.dumps(document))
    with pytest.raises(FileNotFoundError, match=r"frames/YFCC100M/one, for the frames of sequence 0"):
        import_annotations(path)
