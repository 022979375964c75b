"""The settings class of every model by name.

Those of the models that come with the package are known without importing torch; another model of the registry brings
its own as `Config`.
"""

from __future__ import annotations

import sys
from importlib import import_module

from protokern.choices import MODEL_NAMES
from protokern.models.pipnet_settings import PIPNetConfig
from protokern.models.protopnet_settings import ProtoPNetConfig
from protokern.models.protopool_settings import ProtoPoolConfig
from protokern.models.prototree_settings import ProtoTreeConfig
from protokern.models.settings import ModelConfig
from protokern.models.tesnet_settings import TesNetConfig

DEFAULT_MODEL = "protopnet"
_OWN: dict[str, type[ModelConfig]] = {
    "protopnet": ProtoPNetConfig,
    "protopool": ProtoPoolConfig,
    "prototree": ProtoTreeConfig,
    "tesnet": TesNetConfig,
    "pipnet": PIPNetConfig,
}
_REGISTRY = "protokern.models.registry"


def model_names() -> tuple[str, ...]:
    """`MODEL_NAMES`, and what a program has added to the registry; torch is not imported for them."""
    added = sys.modules[_REGISTRY].MODELS if _REGISTRY in sys.modules else ()
    return tuple(dict.fromkeys((*MODEL_NAMES, *added)))


def find_configuration(name: str) -> type[ModelConfig] | None:
    """The settings class of the model `name`; None: there is no such model.

    Torch is imported only if the model's settings are not in a file of their own.
    """
    if name not in model_names():
        return None
    own = _OWN.get(name)
    if own is None:
        own = import_module(_REGISTRY).MODELS[name].Config
    return own


def all_configurations() -> dict[str, type[ModelConfig]]:
    """The settings classes of all models, by the models' names."""
    found = {name: find_configuration(name) for name in model_names()}
    return {name: owner for name, owner in found.items() if owner is not None}


def models_with(key: str) -> list[str]:
    """The models of the package that have a setting `key`."""
    return [name for name, owner in _OWN.items() if key in owner.__dataclass_fields__]
