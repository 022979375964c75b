"""Models by the name that configs and checkpoints use. Torch is imported with the first model that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from protokern.models.settings import ModelConfig

if TYPE_CHECKING:
    from protokern.models.base import PrototypeModel


class Models(MutableMapping[str, "type[PrototypeModel]"]):
    """Model classes by name; a program may add its own: `MODELS["mine"] = Mine`.

    Args:
        rows: from the name to where the class is, "module:Class"; it is imported when it is asked for.
    """

    def __init__(self, rows: dict[str, str]) -> None:
        self._rows: dict[str, str | type[PrototypeModel]] = {**rows}

    def __getitem__(self, name: str) -> type[PrototypeModel]:
        row = self._rows[name]
        if isinstance(row, str):
            module, _, kind = row.partition(":")
            found: type[PrototypeModel] = getattr(import_module(module), kind)
            return found
        return row

    def __setitem__(self, name: str, model: type[PrototypeModel]) -> None:
        self._rows[name] = model

    def __delitem__(self, name: str) -> None:
        del self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def light_settings_of(self, name: str) -> type[ModelConfig] | None:
        """The settings class of a model that has it in a file of its own, `MODULE_settings.py`, as `ClassConfig`.

        Neither the model nor torch is imported. None: the model has its settings elsewhere.
        """
        row = self._rows[name]
        if not isinstance(row, str):
            return None
        module, _, kind = row.partition(":")
        if find_spec(f"{module}_settings") is None:
            return None
        own: type[ModelConfig] = getattr(import_module(f"{module}_settings"), f"{kind}Config")
        return own


MODELS = Models(
    {
        "protopnet": "protokern.models.protopnet:ProtoPNet",
        "protopool": "protokern.models.protopool:ProtoPool",
        "prototree": "protokern.models.prototree:ProtoTree",
        "tesnet": "protokern.models.tesnet:TesNet",
        "pipnet": "protokern.models.pipnet:PIPNet",
    }
)
