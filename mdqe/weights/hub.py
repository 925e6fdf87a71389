"""from_pretrained, save_pretrained and push_to_hub: a model's folder, on disk and on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import torch
from huggingface_hub import HfApi, ModelCard, PyTorchModelHubMixin
from torch import nn

from mdqe.checkpoint import inflate_temporal
from mdqe.config import MDQEConfig
from mdqe.errors import InputError
from mdqe.weights.folder import CONFIG_FILE, WEIGHTS_FILE, SkipRandomInit, fill, read_config, read_weights, write_folder
from mdqe.weights.source import explain_hub_error, open_source

CARD_FILE = "README.md"
MODEL_CARD = """---
{{ card_data }}
---

# {{ title }}

Video instance segmentation with MDQE ([paper]({{ paper_url }})): every object of a video gets a mask in each frame and
one identity throughout.

| | |
|---|---|
| backbone | `{{ config.backbone }}` |
| parameters | {{ "{:,}".format(parameters) }} |
| categories | {{ config.num_classes }} |
| frames of a clip, in training and at test | {{ config.clip_length }}, {{ config.test_clip_length }} |
| shorter edge at test | {{ config.test_shorter_edge or "as the video is" }} |
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


def _module(model: PretrainedMixin) -> nn.Module:
    return cast(nn.Module, model)  # so says the mixin's contract


class PretrainedMixin(
    PyTorchModelHubMixin,
    library_name="mdqe",
    pipeline_tag="image-segmentation",
    tags=["mdqe", "video-instance-segmentation", "video-segmentation", "object-tracking"],
    paper_url="https://arxiv.org/abs/2303.14395",
    model_card_template=MODEL_CARD,
):
    """Loading and saving for an nn.Module that is built as `cls(config)` and keeps `self.config`."""

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
        """Load a model in evaluation mode, whole or not at all.

        Args:
            id_or_folder: a folder, a Hub id ("user/model") or a bundled model ("mdqe:NAME").
            revision: branch, tag or commit on the Hub; its default branch if None.
            token: for private models on the Hub; None takes the one of `hf auth login`.
            cache_dir: where downloads are kept; the Hub client's cache if None.
            local_files_only: never connect, take what the cache has.
            force_download: download anew what the cache has.
            device: where the model goes; None is the CPU.
            dtype: floating-point type of the parameters, whatever the file's; None is torch's default type.
            **config_overrides: fields of MDQEConfig to change. A model of single-frame clips takes any clip_length.

        Raises:
            FileNotFoundError: no such folder, model, revision or file; not in the cache while offline.
            PermissionError: the Hub refused the token, or the model's conditions are not accepted.
            ConnectionError: the Hub cannot be reached or the download broke off.
            ValueError: a wrong argument; a config of something else or of a newer version; tensors missing, unexpected
                or of another shape, by name.
            OSError: a truncated or damaged weights file.
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
        config = saved.replace(**config_overrides)  # may fail: before the long download
        weights = fetch(WEIGHTS_FILE)
        state = read_weights(weights)
        if saved.clip_length == 1:
            state = inflate_temporal(state, config)
        with SkipRandomInit():
            model = cls(config)
        module = _module(model)
        module.to(dtype=dtype)
        fill(module, state, weights)
        module.to(device).eval()
        return model

    def save_pretrained(  # type: ignore[override]
        self, folder: str | Path, *, source: str | None = None
    ) -> None:
        """Write config.json, model.safetensors and, where there is none, a model card README.md.

        A file takes its name when it is complete. Tensors that the model shares are written once.

        Args:
            folder: made if it does not exist.
            source: where the weights come from, for the model card and the metadata of the weights file.

        Raises:
            OSError: the folder is a file, not writable or full.
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
        """Upload to the Hub in one commit. The repository is made if it does not exist; a model card there is kept.

        Returns:
            The address of the commit.

        Raises:
            PermissionError: no token, or one that may not write there.
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
            except Exception as error:  # also those of the client's HTTP library, which differ between its versions
                raise explain_hub_error(error, f"upload to {repo_id!r}") from error
        return str(commit.commit_url)

    def _write(self, folder: Path, model_id: str, source: str | None) -> None:
        write_folder(_module(self), self.config, folder, source)
        if not (folder / CARD_FILE).exists():
            self.generate_model_card(model_id, source).save(folder / CARD_FILE)

    def generate_model_card(self, model_id: str = "FOLDER", source: str | None = None) -> ModelCard:
        """The README of the model's folder: what it is, how to use it, what it finds."""
        return super().generate_model_card(
            title=Path(model_id).name,
            model_id=model_id,
            config=self.config,
            parameters=sum(parameter.numel() for parameter in _module(self).parameters()),
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
        raise InputError("device is 'meta', which holds no values; build MDQE(config) there instead")
    try:
        torch.empty(1, device=checked)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # by kind and number of the device
        reason = str(error).splitlines()[0]
        raise InputError(f"device is {str(device)!r}, which torch {torch.__version__} cannot use: {reason}") from error
    return checked


def _checked_dtype(dtype: torch.dtype | None) -> torch.dtype:
    checked = torch.get_default_dtype() if dtype is None else dtype
    if not isinstance(checked, torch.dtype) or not checked.is_floating_point:
        raise InputError(f"dtype is {dtype!r}, expected a floating-point type such as torch.bfloat16")
    return checked
