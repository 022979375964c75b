"""The settings class of every model by name.

Those of the models that come with the package are known without importing torch; another model of the registry brings
its own as `Config`.
"""

from __future__ import annotations

from importlib import import_module

from protokern.models.protopnet_settings import ProtoPNetConfig
from protokern.models.protopool_settings import ProtoPoolConfig
from protokern.models.prototree_settings import ProtoTreeConfig
from protokern.models.settings import ModelConfig

DEFAULT_MODEL = "protopnet"
_OWN: dict[str, type[ModelConfig]] = {
    "protopnet": ProtoPNetConfig,
    "protopool": ProtoPoolConfig,
    "prototree": ProtoTreeConfig,
}


def find_configuration(name: str) -> type[ModelConfig] | None:
    """The settings class of the model `name`; None: there is no such model."""
    return _OWN.get(name) or all_configurations().get(name)


def all_configurations() -> dict[str, type[ModelConfig]]:
    """The settings classes of all models of the registry; this imports torch."""
    registry = import_module("protokern.models.registry")
    return {name: model.Config for name, model in registry.MODELS.items()}


def models_with(key: str) -> list[str]:
    """The models of the package that have a setting `key`."""
    return [name for name, owner in _OWN.items() if key in owner.__dataclass_fields__]
