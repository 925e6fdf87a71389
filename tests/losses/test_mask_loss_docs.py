"""The code of docs/mask_loss.md runs and does what the page says."""

import torch
from doc_pages import ROOT, blocks, run_python

from mdqe.losses import InterInstanceMaskLoss

FIRST, CRITERION = blocks(ROOT / "docs" / "mask_loss.md")


def test_the_first_example() -> None:
    names: dict = {}
    run_python(FIRST, names)
    assert names["bce"] > 0
    assert names["dice"] > 0


def test_the_criterion_of_other_code() -> None:
    names = {"torch": torch, "InterInstanceMaskLoss": InterInstanceMaskLoss}
    run_python(CRITERION, names)
    predicted = torch.randn(2, 10, 8, 8)
    targets = [
        {"masks": (torch.rand(n, 8, 8) > 0.5).float(), "boxes": torch.tensor([0.1, 0.1, 0.7, 0.7]).expand(n, 4)}
        for n in (3, 2)
    ]
    indices = [(torch.tensor([7, 0, 4]), torch.tensor([2, 0, 1])), (torch.tensor([1, 9]), torch.tensor([0, 1]))]
    losses = names["loss_masks"]({"pred_masks": predicted}, targets, indices, num_masks=5)
    loss, expected = InterInstanceMaskLoss(), torch.zeros(2)
    for image, target, (query, k) in zip(predicted, targets, indices, strict=True):
        masks, boxes = target["masks"][k][:, None], target["boxes"][k][:, None]
        expected += torch.stack(loss(image[query][:, None], masks, boxes)) * len(k) / 5
    torch.testing.assert_close(torch.stack([losses["loss_mask"], losses["loss_dice"]]), expected)
