"""Safe reading of checkpoints and of weights from elsewhere: code inside a file is never run."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from datamodules.errors import InputError
from datamodules.files.paths import replacing

CONFIG_KEY = "classifier"  # where a checkpoint keeps what is needed to rebuild the model


def load_plain(path: Path | str) -> object:
    """Open a torch file with ``weights_only=True``.

    Raises:
        InputError: If the file is missing, damaged, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"no such file: {path}"
        raise InputError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of odd pickles before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) and zipfile.is_zipfile(path):
            msg = f"{path} contains objects that would run code, so it was not opened; only plain tensors are read"
        else:
            msg = f"{path} is damaged, was not written by torch, or would run code when opened; it was not opened"
        raise InputError(msg) from error
    except Exception as error:  # torch raises many kinds for damaged files
        msg = f"{path} is damaged or was not written by torch ({type(error).__name__}): take another copy"
        raise InputError(msg) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, or of a .pth/.pt/.ckpt file that holds a state dict.

    Raises:
        InputError: If the file is missing, damaged, a pickle that would run code, or holds no tensors.
    """
    if path.suffix == ".safetensors":
        if not path.is_file():
            msg = f"no such file: {path}"
            raise InputError(msg)
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            msg = f"{path} is damaged or not a safetensors file ({error}): take another copy"
            raise InputError(msg) from error
    content = load_plain(path)
    for key in ("state_dict", "model"):  # Lightning's and timm's wrappings
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        msg = f"{path} contains no tensors by name: give a file with a model's state dict"
        raise InputError(msg)
    return dict(content)


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint that a run of this project wrote.

    Raises:
        InputError: If it cannot be opened safely, or was not written by this project.
    """
    content = load_plain(path)
    if not isinstance(content, dict) or CONFIG_KEY not in content or "state_dict" not in content:
        msg = f"{path} is not a checkpoint of an emotion classifier: give the .ckpt file of a run"
        raise InputError(msg)
    return content


def store_in_checkpoint(path: Path, entries: Mapping[str, Any], target: Path | None = None) -> Path:
    """Add plain entries to a checkpoint, written to a temporary name and renamed; None removes an entry.

    Args:
        path: The checkpoint.
        entries: Plain data by key.
        target: The file to write; by default the same.

    Returns:
        The file that was written.
    """
    content = read_checkpoint(path)
    content |= {key: value for key, value in entries.items() if value is not None}
    for key, value in entries.items():
        if value is None:
            content.pop(key, None)
    with replacing(target or path, suffix=".ckpt") as part:
        torch.save(content, part)
    return target or path


def require_classes(model_classes: list[str], data_classes: list[str], what: str) -> None:
    """Raise for a model of other classes, or of the same classes in another order.

    Raises:
        InputError: If the lists differ.
    """
    if list(model_classes) != list(data_classes):
        msg = (
            f"{what} was trained on the classes {', '.join(model_classes)}; the data has {', '.join(data_classes)}: "
            "use the data it was trained for, or train a new model"
        )
        raise InputError(msg)
