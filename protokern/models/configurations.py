"""The settings class of every model by name, found without torch where a model has it in a file of its own."""

from __future__ import annotations

from protokern.models.registry import MODELS
from protokern.models.settings import ModelConfig

DEFAULT_MODEL = "protopnet"


def model_names() -> tuple[str, ...]:
    """The models of the package, and what a program has added."""
    return tuple(MODELS)


def find_configuration(name: str) -> type[ModelConfig] | None:
    """The settings class of the model `name`; None: there is no such model.

    Torch is imported only if the model's settings are not in a file of their own.
    """
    if name not in MODELS:
        return None
    return MODELS.light_settings_of(name) or MODELS[name].Config


def all_configurations() -> dict[str, type[ModelConfig]]:
    """The settings classes of all models, by the models' names."""
    found = {name: find_configuration(name) for name in MODELS}
    return {name: owner for name, owner in found.items() if owner is not None}


def models_with(key: str) -> list[str]:
    """The models whose settings are known without torch and have a setting `key`."""
    light = {name: MODELS.light_settings_of(name) for name in MODELS}
    return [name for name, owner in light.items() if owner is not None and key in owner.__dataclass_fields__]
