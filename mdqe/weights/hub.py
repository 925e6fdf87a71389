"""from_pretrained, save_pretrained and push_to_hub: models in folders and on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from huggingface_hub import HfApi, ModelCard, PyTorchModelHubMixin
from torch import nn

from mdqe.checkpoint import inflate_temporal
from mdqe.config import MDQEConfig
from mdqe.errors import InputError
from mdqe.files import whole_file
from mdqe.weights.folder import CONFIG_FILE, WEIGHTS_FILE, SkipRandomInit, fill, read_config, read_weights, write_folder
from mdqe.weights.source import PROGRAMMING_ERRORS, explain_hub_error, open_source

CARD_FILE = "README.md"
MODEL_CARD = """---
{{ card_data }}
---

# {{ title }}

Video instance segmentation with MDQE ([paper]({{ paper_url }})): a mask in each frame for every object of a video, and
one identity throughout the video.

| | |
|---|---|
| backbone | `{{ config.backbone }}` |
| parameters | {{ "{:,}".format(parameters) }} |
| categories | {{ config.num_classes }} |
| frames of a clip in training and at test | {{ config.clip_length }}, {{ config.test_clip_length }} |
| shorter edge at test | {{ config.test_shorter_edge or "that of the video" }} |
{% if source %}| weights | {{ source }} |
{% endif %}
```bash
mdqe segment video.mp4 -o results --model {{ model_id }}
```

```python
from mdqe import MDQE

result = MDQE.from_pretrained("{{ model_id }}").segment("video.mp4")
```
{% if config.categories %}
Categories: {{ config.categories | join(", ") }}.
{% endif %}"""

Model = TypeVar("Model", bound="PretrainedMixin")


class PretrainedMixin(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="mdqe",
    pipeline_tag="image-segmentation",
    tags=["mdqe", "video-instance-segmentation", "video-segmentation", "object-tracking"],
    paper_url="https://arxiv.org/abs/2303.14395",
    model_card_template=MODEL_CARD,
):
    """Loading and saving for a module that is constructed as `cls(config)` and has the attribute `config`."""

    config: MDQEConfig

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[Model],
        id_or_folder: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        **config_overrides: Any,
    ) -> Model:
        """Load a model in evaluation mode. Loading is strict: no parameter keeps a random value.

        Args:
            id_or_folder: a folder, a Hub id ("user/model") or a bundled model ("mdqe:NAME").
            revision: branch, tag or commit on the Hub; None: the default branch.
            token: for private models on the Hub; None: the token of `hf auth login`.
            cache_dir: the folder for downloads; None: the cache of the Hub's client.
            local_files_only: use only the cache and do not connect.
            force_download: download files even if they are in the cache.
            device: the device of the model; None: the CPU.
            dtype: the floating-point type of the parameters, independent of that in the file; None: torch's default.
            **config_overrides: fields of MDQEConfig to change. A model with single-frame clips accepts any clip_length.

        Raises:
            FileNotFoundError: no such folder, model, revision or file, or not in the cache while offline.
            PermissionError: the Hub denied access, or the conditions of the model are not accepted.
            ConnectionError: the Hub cannot be reached or reports a failure, or the download was interrupted or damaged,
                or made no progress for the seconds of MDQE_DOWNLOAD_TIMEOUT (default: 300).
            ValueError: an invalid argument, the config of another model or of a newer version, missing or unexpected
                tensors, or different shapes.
            OSError: the weights file is truncated or damaged.
        """
        device, dtype = _checked_device(device), _checked_dtype(dtype)
        fetch = open_source(
            id_or_folder,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        saved = read_config(fetch(CONFIG_FILE))
        config = saved.replace(**config_overrides)  # before the long download, because it can fail
        weights = fetch(WEIGHTS_FILE)
        state = read_weights(weights)
        if saved.clip_length == 1:
            state = inflate_temporal(state, config)
        with SkipRandomInit():
            model = cls(config)
        fill(model.to(dtype=dtype), state, weights)
        return model.to(device).eval()

    def save_pretrained(  # type: ignore[override]
        self, folder: str | Path, *, source: str | None = None
    ) -> None:
        """Write config.json, model.safetensors and, if the folder has none, a model card (README.md).

        Files are written atomically. Shared tensors are written once.

        Args:
            folder: created if it does not exist.
            source: the origin of the weights, for the model card and the metadata of the weights file.

        Raises:
            OSError: the folder is a file or not writable, or the disk is full.
        """
        self._write(Path(folder), str(folder), source)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        branch: str | None = None,
        token: str | None = None,
        private: bool | None = None,
        commit_message: str = "Upload model",
        create_pr: bool = False,
    ) -> str:
        """Upload the model to the Hub in one commit. An existing model card is kept.

        Args:
            repo_id: the repository, such as "user/model"; created if it does not exist.

        Returns:
            The URL of the commit.

        Raises:
            PermissionError: no token, or a token without write access to the repository.
            ConnectionError: the Hub cannot be reached.
        """
        api = HfApi(token=token)
        with TemporaryDirectory(prefix="mdqe-") as folder:
            self._write(Path(folder), repo_id, None)
            try:
                repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
                kept = [CARD_FILE] if api.file_exists(repo_id, CARD_FILE) else None
                commit = api.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    revision=branch,
                    commit_message=commit_message,
                    create_pr=create_pr,
                    ignore_patterns=kept,
                )
            except PROGRAMMING_ERRORS:
                raise
            except Exception as error:  # the HTTP library below the client has errors of its own in every version
                raise explain_hub_error(error, f"upload to {repo_id!r}") from error
        return str(commit.commit_url)

    def _write(self, folder: Path, model_id: str, source: str | None) -> None:
        write_folder(self, self.config, folder, source)
        if not (folder / CARD_FILE).exists():
            with whole_file(folder / CARD_FILE) as partial:
                self.generate_model_card(model_id, source).save(partial)

    def generate_model_card(self, model_id: str = "FOLDER", source: str | None = None) -> ModelCard:
        """The model card: a description of the model, its categories and its use."""
        return super().generate_model_card(
            title=Path(model_id).name,
            model_id=model_id,
            config=self.config,
            parameters=sum(parameter.numel() for parameter in self.parameters()),
            source=source,
        )


def _checked_device(device: str | torch.device | None) -> torch.device:
    try:
        checked = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device is {device!r}, expected one such as 'cpu' or 'cuda:0'") from error
    if checked.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {str(device)!r}, but torch {torch.__version__} finds no CUDA device")
    if checked.type == "meta":
        raise InputError("device is 'meta', which stores no values; construct MDQE(config) there instead")
    try:
        torch.empty(1, device=checked)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # the type depends on the device
        reason = str(error).splitlines()[0]
        raise InputError(f"device is {str(device)!r}, which torch {torch.__version__} cannot use: {reason}") from error
    return checked


def _checked_dtype(dtype: torch.dtype | None) -> torch.dtype:
    checked = torch.get_default_dtype() if dtype is None else dtype
    if not isinstance(checked, torch.dtype) or not checked.is_floating_point:
        raise InputError(f"dtype is {dtype!r}, expected a floating-point type such as torch.bfloat16")
    return checked
