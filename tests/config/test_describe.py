from __future__ import annotations

from dataclasses import fields

import pytest

from build_tools.settings_table import PAGE, insert
from protokern.config import RunConfig, load_config
from protokern.config.describe import Setting, describe_settings
from protokern.models import MODELS

ALL = describe_settings()


def one(key: str, model: str = "") -> Setting:
    (found,) = [setting for setting in ALL if (setting.key, setting.model) == (key, model)]
    return found


@pytest.mark.parametrize("model", MODELS)
def test_every_key_of_every_model_is_described_once(model: str) -> None:
    config = load_config(None, [f"model.name={model}"])
    keys = [
        f"{table.name}.{entry.name}"
        for table in fields(RunConfig)
        for entry in fields(type(getattr(config, table.name)))
    ]
    assert sorted(setting.key for setting in ALL if setting.model in ("", model)) == sorted(keys)


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: f"{setting.model}{setting.key}")
def test_what_is_said_to_be_the_default_changes_nothing(setting: Setting) -> None:
    model = [f"model.name={setting.model}"] if setting.model else []
    change = [f"{setting.key}={setting.default}"] if setting.default else []
    assert load_config(None, [*model, *change]) == load_config(None, model)


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: f"{setting.model}{setting.key}")
def test_every_setting_has_a_sentence(setting: Setting) -> None:
    assert setting.meaning.endswith(".")
    assert "\n" not in setting.meaning


@pytest.mark.parametrize(
    ("key", "takes"),
    [
        ("train.seed", "a whole number"),
        ("train.l1", "a number"),
        ("train.compile", "true or false"),
        ("data.path", "text"),
        ("train.schedule", '"constant", "step", "linear" or "cosine"'),
        ("train.live_lr", 'a number or "auto"'),
        ("train.frozen_layers", "a list of texts in [ ]"),
        ("model.name", '"protopnet", "protopool", "prototree", "tesnet" or "pipnet"'),
        ("model.backbone_stage", "a whole number"),
        ("model.prototype_size", "two whole numbers in [ ]"),
        ("data.image_size", "a whole number or two whole numbers in [ ]"),
        ("data.grey_range", '"auto", "type" or two numbers in [ ]'),
    ],
)
def test_types_are_said_in_words(key: str, takes: str) -> None:
    assert one(key).takes == takes


def test_a_key_that_models_differ_in_is_told_for_each() -> None:
    assert one("model.add_on_layers", "protopnet").default == '"regular"'
    assert one("model.add_on_layers", "protopool").default == '"single"'
    assert one("model.backbone_stage").default == ""


def test_keys_of_one_entry_of_a_docstring_share_it_in_whole() -> None:
    meaning = "learning rates in the warm, joint and hardening stages. Parts that only one kind of model has, such as"
    assert one("train.backbone_lr").meaning.startswith(meaning)
    assert one("train.prototype_lr").meaning == one("train.backbone_lr").meaning


def test_the_tables_on_the_page_are_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert insert(page) == page, "run: make format"
