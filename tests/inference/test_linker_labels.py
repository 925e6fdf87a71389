"""Labels and embeddings of the detections of a `Linker`."""

import numpy as np
import pytest
import torch

import mdqe
from mdqe.inference.frame_scores import OTHER_LABEL, weight_of_other_labels
from mdqe.inference.linked_tracks import LinkedTracks

SIZE = (60, 100)


def squares(*places: tuple[int, int], side: int = 12) -> np.ndarray:
    """Masks (D, H, W) of squares with these left and upper edges."""
    masks = np.zeros((len(places), *SIZE), bool)
    for mask, (x, y) in zip(masks, places, strict=True):
        mask[y : y + side, x : x + side] = True
    return masks


def test_labels_and_embeddings_separate_what_masks_cannot():
    """Two objects change places between two frames."""
    places, vectors = [(10, 10), (18, 14)], np.array([[1.0, 0, 0], [0, 1, 0.2]])
    for extra in ({"labels": [3, 5]}, {"embeddings": vectors}, {"embeddings": torch.tensor(vectors) * 40}):
        linker = mdqe.Linker()
        for _ in range(4):
            assert linker.push(squares(*places), **extra).tolist() == [0, 1]
        turned = {name: value[::-1] if isinstance(value, list) else value[[1, 0]] for name, value in extra.items()}
        assert linker.push(squares(*places), **turned).tolist() == [1, 0], extra


@pytest.mark.parametrize(("wrong", "returned"), [(False, 2), (True, 0)])
def test_labels_count_little_if_they_are_often_wrong(wrong, returned):
    """An object returns with another label, away from its place. The label of another object never changes, or does."""
    linker, corner = mdqe.Linker(), (85, 45)
    for t in range(24):
        linker.push(squares((10, 10), corner), labels=[0, 7 if wrong and t % 4 == 3 else 0])
    for _ in range(8):
        linker.push(squares(corner), labels=[0])
    assert linker.push(squares((32, 10), corner), labels=[7, 0]).tolist() == [returned, 1]


def test_the_weight_of_other_labels():
    """The share of wrong labels, relative to that of all labels that differ."""
    tracks = LinkedTracks()
    tracks.labels, tracks.labelled, tracks.votes = np.array([[3, 3, 5, 5], [100] * 4, [100, 80, 100, 80]])
    wrong = (1 + 20) / (20 + 4 * 99)
    assert weight_of_other_labels(tracks) == OTHER_LABEL  # two thirds of the pairs of objects have different labels
    tracks.labels[:] = 3
    assert weight_of_other_labels(tracks) == pytest.approx(wrong / (wrong + 0.05))
    tracks.votes[:] = 100
    assert weight_of_other_labels(tracks) == OTHER_LABEL
    assert weight_of_other_labels(LinkedTracks()) == pytest.approx(0.5)


def test_large_labels_of_tensors_are_exact():
    """float32 holds no odd number above 2²⁴."""
    label = 2**24 + 1
    results = [mdqe.link([squares((5, 5))], labels=[form([label])]) for form in (torch.tensor, np.array)]
    assert [result.labels.tolist() for result in results] == [[label], [label]]
