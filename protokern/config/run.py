"""The configuration of a run: TOML files and `--set` in, checked frozen dataclasses out, and back to TOML.

Every error becomes one ConfigError that names the key by its path and says what is allowed there.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, to_json

from protokern.config.data import DataConfig
from protokern.config.train import PruneConfig, TrainConfig
from protokern.data.places import absolute_source
from protokern.errors import ConfigError
from protokern.models.configurations import DEFAULT_MODEL, find_configuration, model_names, models_with
from protokern.models.protopnet_settings import ProtoPNetConfig
from protokern.models.settings import ModelConfig
from protokern.recipes import recipe_text
from protokern.storage.files import check_format

LARGEST_CONFIG = 2**15  # bytes; in a larger file a key could have so many parts that its parser takes minutes
# Beside TOMLDecodeError: not UTF-8, a number of thousands of digits, deeply nested brackets.
_NO_TOML = (ValueError, RecursionError)
RUN_FORMAT = "protokern-run-1"
MADE_BY = "made_by"  # the table of run.toml with the versions that wrote it; not a setting
# What runs did before these settings existed, if it is not the default.
_OLD_DATA = {"grey_range": "type"}
_BARE_WORD = re.compile(r"[A-Za-z0-9_./~-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """All settings of a run; `run.toml` holds them in full.

    `model` is the `Config` of the model that its `name` selects from the registry, so a new model defines its keys.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: ModelConfig = field(default_factory=ProtoPNetConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)


def load_config(
    path: Path | str | None,
    changes: Sequence[str] = (),
    recipe: str | None = None,
    sizes: Mapping[str, Mapping[str, Any]] | None = None,
) -> RunConfig:
    """Read a TOML file (None: the defaults), apply `key=value` changes in order, and check the result.

    Args:
        path: of the file; its settings come over those of the recipe.
        changes: `section.key=value`, which come over both.
        recipe: one of `protokern.recipes.RECIPES`, whose settings come over the defaults.
        sizes: tables of settings that follow the data, which come over those of the recipe.

    Raises:
        ConfigError: unreadable file, broken TOML, unknown key, wrong type or value, no such recipe, or a recipe for
            another model.
        CheckpointError: the run.toml of a newer version.
    """
    table = {} if path is None else _read_settings(Path(path))
    if recipe is None:
        return parse_config(apply_changes(table, changes))
    base = _put_over(tomllib.loads(recipe_text(recipe)), sizes or {})
    table = apply_changes(_put_over(base, table), changes)
    if not _are_of_one_model(base, table):
        raise ConfigError(
            f"--recipe: must be for the model that is trained; got {recipe}, which is for "
            f"{base['model'].get('name', DEFAULT_MODEL)}, with model.name = {table['model']['name']!r}. "
            "Leave out one of them."
        )
    return parse_config(table)


def _read_settings(path: Path) -> dict[str, Any]:
    """The tables of a file of settings, or of the run.toml of any version that this one can read."""
    table = read_toml(path)
    made_by = table.pop(MADE_BY, None)
    if isinstance(made_by, dict) and "format" in made_by:
        check_format(path, made_by, RUN_FORMAT)
        table = with_old_defaults(table)
    return table


def changed_tables(
    base: Mapping[str, Any],
    path: Path | str | None,
    changes: Sequence[str],
    recipe: str | None,
    beginning: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The tables of a trained run with changes.

    Args:
        base: tables of the run.
        path: of a TOML file, whose settings come over those of the recipe; None: none.
        changes: `section.key=value`, which come over everything.
        recipe: whose tables of training and pruning come over `base`; its net and its data are left out.
        beginning: tables that come over the file.

    Raises:
        ConfigError: an unreadable file, broken TOML, no such recipe, or a change that is none.
        CheckpointError: the run.toml of a newer version.
    """
    named = {} if recipe is None else tomllib.loads(recipe_text(recipe))
    table = _put_over(base, {name: named[name] for name in ("train", "prune") if name in named})
    table = _put_over(_put_over(table, {} if path is None else _read_settings(Path(path))), beginning)
    return apply_changes(table, changes)


def fits_recipe(recipe: str, changes: Sequence[str]) -> bool:
    """Whether a recipe is for the model that `section.key=value` changes name, if they name one.

    Raises:
        ConfigError: no such recipe, no such model, or a change that is none.
    """
    base = tomllib.loads(recipe_text(recipe))
    return _are_of_one_model(base, apply_changes(base, changes))


def _are_of_one_model(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return _model_settings(one.get("model", {})) is _model_settings(other.get("model", {}))


def _put_over(base: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of `base` with every key of `table` in place of theirs."""
    merged = dict(base)
    for section, values in table.items():
        below = base.get(section, {})
        merged[section] = {**below, **values} if isinstance(values, Mapping) else values
    return merged


def with_old_defaults(table: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a run, in which settings that an older version did not write have their values of that time."""
    data = table.get("data", {})
    return {**table, "data": {**_OLD_DATA, **data}} if isinstance(data, Mapping) else dict(table)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: the file cannot be read or is not TOML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_CONFIG + 1)
        if len(content) > LARGEST_CONFIG:
            raise ConfigError(f"config: must be a TOML file of at most {LARGEST_CONFIG} bytes; got {path}.")
        return tomllib.loads(content.decode("utf-8"))
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"config: must be a readable TOML file; got {path} ({error.strerror}).") from error
    except _NO_TOML as error:
        raise ConfigError(f"config: {path} is not valid TOML: {error}.") from error


def apply_changes(table: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A copy of `table` with each `section.key=value` set; the value is TOML, or a bare word, which is text.

    Raises:
        ConfigError: a change has no `=`, no key, or a value that is neither TOML nor a bare word.
    """
    changed: dict[str, Any] = json.loads(to_json(table, inf_nan_mode="constants"))
    for change in changes:
        key, equals, value = change.partition("=")
        names = [name.strip() for name in key.split(".")]
        if not equals or not all(names):
            raise ConfigError(f"--set: must be section.key=value; got {change!r}. Write for example train.seed=1.")
        section = changed
        for name in names[:-1]:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise ConfigError(f"--set {change}: {name!r} is a value, not a section.")
        section[names[-1]] = _parse_value(value.strip(), ".".join(names))
    return changed


def _parse_value(text: str, key: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except _NO_TOML as error:
        if _BARE_WORD.fullmatch(text):
            return text
        raise ConfigError(
            f"--set {key}: {text!r} is not a TOML value ({error}). "
            f"Write numbers and lists as they are and text in quotes: --set {key}='\"text\"'."
        ) from error


def parse_config(table: Mapping[str, Any]) -> RunConfig:
    """Check plain tables and build the configuration from them.

    Raises:
        ConfigError: an unknown key, a wrong type or a value out of range; one line, with the path of the key.
    """
    for section, values in table.items():
        for key, value in values.items() if isinstance(values, Mapping) else ():
            for text in value if isinstance(value, list | tuple) else [value]:
                check_text(f"{section}.{key}", str(text))
    others = {name: values for name, values in table.items() if name != "model"}
    config: RunConfig = _validate(RunConfig, others, ())
    model = table.get("model", {})
    return replace(config, model=_validate(_model_settings(model), model, ("model",)))


def check_text(key: str, value: str) -> None:
    """Raise a ConfigError unless a setting, such as the path of a folder, is text that a TOML file can hold."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{key}: must be UTF-8, because run.toml stores it; got {value!a}. "
            "Rename it, or give a link to it with another name."
        ) from error


def _model_settings(table: Any) -> type[ModelConfig]:
    """The settings class of the model that the table names."""
    name = table.get("name", DEFAULT_MODEL) if isinstance(table, Mapping) else DEFAULT_MODEL
    owner = find_configuration(name) if isinstance(name, str) else None
    if owner is None:
        names = model_names()
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(f"model.name: must be one of {', '.join(names)}; got {name!r}.{hint}")
    return owner


def _validate(owner: type[Any], table: Any, prefix: tuple[str, ...]) -> Any:
    try:
        # Through JSON because pydantic's strict mode takes lists for tuples and tables for dataclasses only there.
        return TypeAdapter(owner).validate_json(to_json(table, inf_nan_mode="constants"), strict=True)
    except ValidationError as error:
        raise ConfigError(_explain(error, owner, prefix)) from error


def _explain(error: ValidationError, owner: type[Any], prefix: tuple[str, ...]) -> str:
    """The first error as one line: path, what is wanted, what was given."""
    mistake = error.errors()[0]
    inner = [part for part in mistake["loc"] if isinstance(part, str) and not _is_alternative(part)]
    path = [*prefix, *inner]
    if mistake["type"] == "value_error":  # from a __post_init__, whose message begins with the field's name
        return ".".join([*path, str(mistake["ctx"]["error"])])
    key = ".".join(path)
    if mistake["type"] == "unexpected_keyword_argument":
        allowed = [entry.name for entry in fields(_settings_at(owner, inner[:-1]))]
        return f"{key}: no such key. {_hint(path, allowed)}Allowed here: {', '.join(allowed)}."
    return f"{key}: must be {_wanted(mistake, owner, inner)}; got {mistake['input']!r}."


def _hint(path: Sequence[str], allowed: Sequence[str]) -> str:
    """What an unknown key may mean: a key of another model, or one with a similar name."""
    *table, key = path
    if table == ["model"]:
        owners = models_with(key)
        if owners:
            return f"It is a key of {' and '.join(owners)}: set model.name for that. "
    close = difflib.get_close_matches(key, allowed, n=1)
    return f"Did you mean {'.'.join([*table, close[0]])}? " if close else ""


def _is_alternative(part: str) -> bool:
    """Whether a part of an error's location is not a key but one type of a union."""
    return part.startswith(("tuple[", "int", "float", "literal["))


def _wanted(mistake: ErrorDetails, owner: type[Any], path: Sequence[str]) -> str:
    """What a key accepts, in a few words."""
    if mistake["type"] == "dataclass_type":
        return "a table of keys"
    key_type = str(get_type_hints(_settings_at(owner, path[:-1])).get(path[-1]))
    if "'auto', 'type'" in key_type:
        return '"auto", "type" or two numbers in [ ]'
    if "tuple[str" in key_type:
        return "a list of texts in [ ]"
    if "tuple" in key_type:
        return "a whole number or two of them in [ ]" if "int |" in key_type else "two whole numbers in [ ]"
    if "Literal" in key_type and ("float" in key_type or "int," in key_type):
        words = re.findall(r"'(\w+)'", key_type)
        number = "a number" if "float" in key_type else "a whole number"
        return f"{number} or {' or '.join(repr(word) for word in words)}"
    return {"int_type": "a whole number", "float_type": "a number", "bool_type": "true or false"}.get(
        mistake["type"], mistake["msg"].removeprefix("Input should be ")
    )


def _settings_at(owner: type[Any], path: Sequence[str]) -> type:
    """The dataclass that holds the keys below `path`, seen from the dataclass `owner`."""
    for name in path:
        owner = get_type_hints(owner)[name]
    assert is_dataclass(owner)
    return owner


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain nested tables, as `parse_config` takes them."""
    plain: dict[str, Any] = json.loads(to_json(asdict(config)))
    return plain


def config_to_toml(config: RunConfig, made_by: Mapping[str, str]) -> str:
    """The whole configuration as TOML, with a table of the versions that wrote it.

    Args:
        config: what to write; every value is written, also defaults, except None, which TOML does not have.
        made_by: names and versions, for people; `load_config` ignores all but its `format`.
    """
    lines = []
    for section, values in [*config_to_dict(config).items(), (MADE_BY, made_by)]:
        lines.append(f"[{section}]")
        # JSON's strings, numbers, booleans and lists are TOML's too.
        lines += [
            f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None
        ]
        lines.append("")
    return "\n".join(lines)


def differing_keys(ours: RunConfig, theirs: RunConfig) -> list[str]:
    """Paths of the keys in which two configurations differ, in the order of the file."""
    one, other = config_to_dict(ours), config_to_dict(theirs)
    return [
        f"{table}.{key}"
        for table in one
        for key in {**one[table], **other[table]}
        if key not in one[table] or key not in other[table] or one[table][key] != other[table][key]
    ]


def with_data(config: RunConfig, path: str | None) -> RunConfig:
    """The configuration with --data, if given, as `data.path`; absolute, so valid in any working folder."""
    if path is None:
        return config
    source = absolute_source(path)
    check_text("--data", source)
    return replace(config, data=replace(config.data, path=source))


def with_absolute_store(config: RunConfig) -> RunConfig:
    """The configuration with an absolute `data.feature_store`, if any, valid in any working folder."""
    where = feature_store(config)
    if where is None:
        return config
    check_text("data.feature_store", str(where.absolute()))
    return replace(config, data=replace(config.data, feature_store=str(where.absolute())))


def feature_store(config: RunConfig) -> Path | None:
    """Folder of the features of a frozen backbone; None: in the run folder."""
    return Path(config.data.feature_store) if config.data.feature_store else None
