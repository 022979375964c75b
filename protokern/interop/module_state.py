"""From what a file of torch holds to the tensors and the settings of a network, whatever it was saved as.

A whole module, a state dict, a dictionary with one of these, and networks wrapped in DataParallel or
DistributedDataParallel all become one flat state dict, and the plain attributes beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from protokern.errors import CheckpointError

from .stand_ins import Inert, Name, TensorRecord
from .torch_files import TorchFile, read_torch_file

# The keys under which programs save a network in a dictionary, in the order of preference.
_NETWORKS = ("model_state_dict", "state_dict", "model_state", "model", "net", "network", "module", "ema_state_dict")
_MOST_LEVELS = 64  # of modules inside modules
_MOST_MODULES = 20_000
_MOST_ENTRIES = 1_000_000  # of all modules
_WRAPPER = "module."
_OF_EVERY_MODULE = ("training", "_is_full_backward_hook", "_version", "call_super_init")
_PLAIN = (bool, int, float, str)


@dataclass(frozen=True)
class NetworkState:
    """The network of a file.

    Attributes:
        path: of the file.
        tensors: parameters and buffers by name, as in a state dict.
        settings: plain attributes by name, such as "num_classes" or "features.conv1.stride"; tensors, numbers, texts
            and tuples of them. Those of a dictionary around the network too.
        extra: what the state dict holds besides tensors, by name.
        kind: the name of the network's class, such as "PPNet"; "" for a state dict.
        layers: the classes of the modules by name, such as "features.0": "torch.nn.modules.conv.Conv2d".
        module: the whole module; None for a state dict.
    """

    path: Path
    tensors: dict[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    layers: dict[str, str] = field(default_factory=dict)
    module: Inert | None = None

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, by the rest of their names."""
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}

    def get(self, name: str) -> Tensor:
        """The tensor of that name.

        Raises:
            CheckpointError: there is none.
        """
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.path}: must hold {name!r}; it is missing among {len(self.tensors)} tensors. Give the whole "
                "network of the released program."
            )
        return self.tensors[name]


def read_network(path: Path) -> NetworkState:
    """Read the network of a file of `torch.save`, or of a `.safetensors` file. Nothing of the file is run.

    Raises:
        CheckpointError: the file cannot be read, or holds no network.
    """
    if path.suffix == ".safetensors":
        try:
            return NetworkState(path, load_file(path))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}). Give a whole file.") from error
    file = read_torch_file(path)
    return _unwrap(_state_of(file, file.root, {}))


def _state_of(file: TorchFile, root: Any, settings: dict[str, Any]) -> NetworkState:
    for _ in range(_MOST_LEVELS):
        if isinstance(root, Inert) and "_modules" in root.state:
            return _of_module(file, root, settings)
        if not isinstance(root, dict):
            break
        if any(isinstance(value, TensorRecord) for value in root.values()):
            return _of_dictionary(file, root, settings)
        inside = next((name for name in _NETWORKS if isinstance(root.get(name), dict | Inert)), None)
        if inside is None:
            break
        settings = settings | _settings_beside(root, inside)
        root = root[inside]
    what = root.path if isinstance(root, Inert | Name) else type(root).__name__
    raise CheckpointError(
        f"{file.path}: must hold a network or its state dict; got {what[:80]!r}. Save net.state_dict(), or the "
        "whole net."
    )


def _settings_beside(table: dict[Any, Any], network: str) -> dict[str, Any]:
    """Plain values beside a network, and those of an argparse.Namespace."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Inert) and value.path == "argparse.Namespace":
            found |= {f"{name}.{key}": one for key, one in value.state.items() if isinstance(one, _PLAIN)}
        elif isinstance(value, _PLAIN) and name != network:
            found[str(name)] = value
    return found


def _of_dictionary(file: TorchFile, table: dict[Any, Any], settings: dict[str, Any]) -> NetworkState:
    named = {str(name): value for name, value in table.items() if isinstance(name, str)}
    tensors = {name: file.tensor(value) for name, value in named.items() if isinstance(value, TensorRecord)}
    others = {name: value for name, value in named.items() if not isinstance(value, TensorRecord)}
    return NetworkState(file.path, tensors, settings, others)


def _of_module(file: TorchFile, module: Inert, settings: dict[str, Any]) -> NetworkState:
    tensors: dict[str, Tensor] = {}
    attributes: dict[str, Any] = {}
    layers: dict[str, str] = {}
    left = _MOST_ENTRIES
    for prefix, one in _modules(file, module):
        layers[prefix[:-1]] = one.path
        left -= sum(len(table) if isinstance(table, dict | list) else 1 for table in one.state.values())
        if left < 0:
            raise CheckpointError(
                f"{file.path}: must have modules with at most {_MOST_ENTRIES:,} entries in all; it has more. Save its "
                "state dict."
            )
        passing = one.state.get("_non_persistent_buffers_set")
        left_out = passing if isinstance(passing, list) else []
        for table in ("_parameters", "_buffers"):
            entries = one.state.get(table)
            for name, value in entries.items() if isinstance(entries, dict) else ():
                if isinstance(name, str) and isinstance(value, TensorRecord) and name not in left_out:
                    tensors[prefix + name] = file.tensor(value)
        for name, value in one.state.items():
            if isinstance(name, str) and name not in _OF_EVERY_MODULE:
                plain = _plain(file, value)
                if plain is not None:
                    attributes[f"{prefix}{name}"] = plain
    kind = module.path.rpartition(".")[2]
    return NetworkState(file.path, tensors, settings | attributes, {}, kind, layers, module)


def _modules(file: TorchFile, root: Inert) -> Iterator[tuple[str, Inert]]:
    """Every module with the prefix of its names, each before those inside of it."""
    waiting = [("", root, 0)]
    for count in range(_MOST_MODULES):
        if not waiting:
            return
        prefix, module, level = waiting.pop()
        yield prefix, module
        inside = module.state.get("_modules")
        if level == _MOST_LEVELS or count + len(waiting) > _MOST_MODULES:
            break
        for name, child in reversed(inside.items()) if isinstance(inside, dict) else ():
            if isinstance(name, str) and isinstance(child, Inert):
                waiting.append((f"{prefix}{name}.", child, level + 1))
    raise CheckpointError(
        f"{file.path}: must hold a network of at most {_MOST_MODULES:,} modules, {_MOST_LEVELS} inside each other; it "
        "has more. Save its state dict."
    )


def _plain(file: TorchFile, value: Any) -> Any:
    """A setting; None for anything else."""
    if isinstance(value, TensorRecord):
        return file.tensor(value)
    if isinstance(value, Name):
        return value
    if isinstance(value, list | tuple) and len(value) <= _MOST_LEVELS and all(isinstance(one, _PLAIN) for one in value):
        return tuple(value)
    return value if isinstance(value, _PLAIN) else None


def _unwrap(state: NetworkState) -> NetworkState:
    """Without the names that DataParallel, DistributedDataParallel and torch.compile add."""
    while state.tensors and (prefix := _common(state.tensors)):
        module = state.module
        inside = module.state["_modules"].get(prefix[:-1]) if module is not None else None
        state = NetworkState(
            state.path,
            {name.removeprefix(prefix): value for name, value in state.tensors.items()},
            {name.removeprefix(prefix): value for name, value in state.settings.items()},
            {name.removeprefix(prefix): value for name, value in state.extra.items()},
            inside.path.rpartition(".")[2] if isinstance(inside, Inert) else state.kind,
            {name.removeprefix(prefix): value for name, value in state.layers.items()},
            inside if isinstance(inside, Inert) else module,
        )
    return state


def _common(tensors: dict[str, Tensor]) -> str:
    for prefix in (_WRAPPER, "_orig_mod."):
        if all(name.startswith(prefix) for name in tensors):
            return prefix
    return ""
