"""A small model, and the folder that it is saved in."""

from pathlib import Path

import pytest
from hub_client import SmallModel

from mdqe import MDQEConfig


@pytest.fixture
def model() -> SmallModel:
    return SmallModel(MDQEConfig(embed_dim=4, hidden_dim=32, num_classes=3, categories=("cat", "dog", "fish")))


@pytest.fixture
def folder(model: SmallModel, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"
