"""Publishing the folder of a model on the Hub, as it is, with a card that says where its weights come from."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import safe_open

from mdqe.modeling.network import Network
from mdqe.weights.card import model_card, write_card
from mdqe.weights.download import sha256
from mdqe.weights.folder import CONFIG_FILE, WEIGHTS_FILE, SkipRandomInit, fill, read_config, read_weights
from mdqe.weights.hub import upload
from mdqe.weights.source import open_source
from mdqe.weights.zoo import LICENSE, LICENSE_NAME, RECORD_FILE, read_record, zoo


def publish(
    name: str, repo_id: str, *, license: str | None = None, private: bool | None = None, token: str | None = None
) -> str:
    """Upload a model to a repository of one's own on the Hub. The files of the weights and the config are not changed.

    Args:
        name: a folder, or another name of a model as in `MDQE.from_pretrained`.
        repo_id: the repository, such as "user/model"; created if it does not exist. An existing card is kept.
        license: identifier of the licence of the weights, such as "apache-2.0"; None: that of the published models,
            or none.
        private: create a private repository.
        token: of the Hub; None: that of `hf auth login`.

    Returns:
        The URL of the commit.

    Raises:
        FileNotFoundError, ValueError, OSError: the model cannot be loaded, as in `MDQE.from_pretrained`.
        PermissionError: no token, or a token without write access to the repository.
        ConnectionError: the Hub cannot be reached.
    """
    fetch = open_source(name)
    config_path, weights = fetch(CONFIG_FILE), fetch(WEIGHTS_FILE)
    config = read_config(config_path)
    with SkipRandomInit():
        model = Network(config)
    fill(model, read_weights(weights), weights)  # nobody should download a model that does not load
    with safe_open(weights, framework="pt") as file:
        source = (file.metadata() or {}).get("source")
    digest = sha256(weights)
    facts = {f"SHA-256 of {WEIGHTS_FILE}": digest}
    record = read_record(weights.parent)
    if record and record["files"][WEIGHTS_FILE] != digest:  # of weights that were there before
        record = None
    known = zoo().get(record["name"]) if record else None
    if known is not None:
        facts |= {"data": known.data, "published AP": f"{known.published} (of the authors, in percent)"}
        license = license or LICENSE
    if license is not None:
        facts["licence"] = LICENSE_NAME if known is not None and license == LICENSE else license
    count = sum(parameter.numel() for parameter in model.parameters())
    card = model_card(config, repo_id, parameters=count, source=source, facts=facts, license=license)
    with TemporaryDirectory(prefix="mdqe-") as folder:
        for path in (config_path, weights, *([weights.parent / RECORD_FILE] if record else [])):
            _link(path, Path(folder) / path.name)
        write_card(Path(folder), card)
        return upload(Path(folder), repo_id, token=token, private=private, commit_message="Publish converted weights")


def _link(path: Path, new: Path) -> None:
    """Give a file a second name without copying it, if the file system can."""
    try:
        new.symlink_to(path.resolve())
    except OSError:
        shutil.copyfile(path, new)
