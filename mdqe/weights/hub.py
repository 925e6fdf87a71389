"""from_pretrained, save_pretrained and push_to_hub: models in folders and on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from huggingface_hub import HfApi, ModelCard, PyTorchModelHubMixin
from torch import nn

from mdqe.checkpoint.layout import inflate_temporal
from mdqe.config import MDQEConfig
from mdqe.errors import InputError, printable
from mdqe.modeling.layers import warn_if_type_is_slow
from mdqe.weights.card import CARD_FILE, model_card, write_card
from mdqe.weights.folder import CONFIG_FILE, WEIGHTS_FILE, SkipRandomInit, fill, read_config, read_weights, write_folder
from mdqe.weights.source import PROGRAMMING_ERRORS, explain_hub_error, open_source

Model = TypeVar("Model", bound="PretrainedMixin")


class PretrainedMixin(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="mdqe",
):
    """Loading and saving for a module that is constructed as `cls(config)` and has the attribute `config`."""

    config: MDQEConfig

    class_layers: Callable[[], dict[str, nn.Linear]]
    """As in `Network`; used by `reset_classes`."""

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
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        subfolder: str | None = None,
        reset_classes: bool = False,
        **config_overrides: Any,
    ) -> Model:
        """Load a model in evaluation mode. Loading is strict: no parameter keeps a random value.

        Args:
            id_or_folder: a folder, a Hub id ("user/model"), the bundled model ("mdqe:tiny"), or a model that the
                authors published ("mdqe:r50_ovis_360"), which is downloaded from Google Drive the first time.
            revision: branch, tag or commit on the Hub; None: the default branch.
            token: for private models on the Hub; None: the token of `hf auth login`.
            cache_dir: the folder for downloads; None: the cache of the Hub's client, and "mdqe" beside it for the
                models of the authors.
            local_files_only: use only the cache and do not connect.
            force_download: download files even if they are in the cache.
            device: the device of the model; None: the CPU.
            dtype: the floating-point type of the parameters, such as torch.bfloat16 or "bfloat16"; "auto": that of the
                file; None: torch's default.
            torch_dtype: another name of `dtype`, as in transformers.
            subfolder: the folder with the files inside the folder or repository.
            reset_classes: initialise the layers that score categories randomly, for other categories than those of the
                saved model; `num_classes` and `categories` are theirs. One of the two is enough.
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
        device, dtype = checked_device(device), _checked_dtype(dtype, torch_dtype)
        _check_overrides(config_overrides)
        fetch = open_source(
            id_or_folder, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
            force_download=force_download, subfolder=subfolder,
        )  # fmt: skip
        saved = read_config(fetch(CONFIG_FILE))  # first, because an error here saves the long download
        config = _changed(saved, config_overrides, id_or_folder, reset_classes=reset_classes)
        weights = fetch(WEIGHTS_FILE)
        state = read_weights(weights)
        if saved.clip_length == 1:
            state = inflate_temporal(state, config)
        model = _filled(cls, config, state, weights, dtype, reset_classes=reset_classes)
        warn_if_type_is_slow(device, _saved_dtype(state) if dtype is None else dtype)
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
        with TemporaryDirectory(prefix="mdqe-") as folder:
            self._write(Path(folder), repo_id, None)
            return upload(
                Path(folder),
                repo_id,
                token=token,
                private=private,
                branch=branch,
                commit_message=commit_message,
                create_pr=create_pr,
            )

    def _write(self, folder: Path, model_id: str, source: str | None) -> None:
        write_folder(self, self.config, folder, source)
        write_card(folder, self.generate_model_card(model_id, source))

    def generate_model_card(self, model_id: str = "FOLDER", source: str | None = None) -> ModelCard:
        """The model card: a description of the model, its categories and its use."""
        count = sum(parameter.numel() for parameter in self.parameters())
        return model_card(self.config, model_id, parameters=count, source=source)


def upload(
    folder: Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    branch: str | None = None,
    commit_message: str = "Upload model",
    create_pr: bool = False,
) -> str:
    """Upload a folder to the Hub in one commit, as `PretrainedMixin.push_to_hub` does. An existing card is kept."""
    api = HfApi(token=token)
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


def checked_device(device: str | torch.device | None) -> torch.device:
    """The device, which exists and can be used; the CPU for None. Raises InputError otherwise."""
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


def _checked_dtype(dtype: torch.dtype | str | None, torch_dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The type of the parameters; None for that of the file."""
    if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
        raise InputError(f"dtype is {dtype!r} and torch_dtype is {torch_dtype!r}, expected one of them")
    given = torch_dtype if dtype is None else dtype
    if isinstance(given, str) and given == "auto":
        return None
    checked: Any = torch.get_default_dtype() if given is None else given
    if isinstance(checked, str):
        checked = getattr(torch, checked.removeprefix("torch."), None)
    if not isinstance(checked, torch.dtype) or not checked.is_floating_point:
        raise InputError(f'dtype is {given!r}, expected a floating-point type such as torch.bfloat16 or "bfloat16"')
    return checked


def _filled(
    cls: type[Model],
    config: MDQEConfig,
    state: dict[str, torch.Tensor],
    origin: Path,
    dtype: torch.dtype | None,
    *,
    reset_classes: bool,
) -> Model:
    """A model with a state, in which the layers that score categories may be random instead."""
    with nullcontext() if reset_classes else SkipRandomInit():
        model = cls(config)
    if reset_classes:
        for name, layer in model.class_layers().items():
            state.update({f"{name}.{key}": tensor for key, tensor in layer.state_dict().items()})
    fill(model.to(dtype=_saved_dtype(state) if dtype is None else dtype), state, origin)
    return model


def _saved_dtype(state: dict[str, torch.Tensor]) -> torch.dtype:
    """The floating-point type with the most numbers."""
    counts: dict[torch.dtype, int] = {}
    for tensor in state.values():
        if tensor.is_floating_point():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    return max(counts, key=lambda dtype: counts[dtype], default=torch.get_default_dtype())


def _check_overrides(overrides: dict[str, Any]) -> None:
    known = {field.name for field in fields(MDQEConfig)}
    for name in (name for name in overrides if name not in known):
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"from_pretrained has no argument {printable(name)!r}{hint}")


def _changed(saved: MDQEConfig, overrides: dict[str, Any], name: str | Path, *, reset_classes: bool) -> MDQEConfig:
    """The configuration of a saved model with some fields changed."""
    if reset_classes:
        overrides = {**_other_categories(saved, overrides), **overrides}
    config = saved.replace(**overrides)
    if config.num_classes != saved.num_classes and not reset_classes:
        raise InputError(
            f"{name} has {saved.num_classes} categories, not {config.num_classes}: initialise the layers "
            "that score categories randomly with reset_classes=True, in mdqe train with --reset-classes"
        )
    return config


def _other_categories(saved: MDQEConfig, overrides: dict[str, Any]) -> dict[str, Any]:
    """The fields of the configuration that follow from the given categories."""
    names = overrides.get("categories")
    count = len(names) if isinstance(names, list | tuple) and names else saved.num_classes
    count = overrides.get("num_classes", count)
    if names is None and count == saved.num_classes:  # the same categories, scored anew
        return {}
    return {"num_classes": count, "categories": (), "category_ids": ()}
