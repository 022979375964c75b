from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from protokern.backbones import list_backbones
from protokern.config import (
    DataConfig,
    RunConfig,
    apply_changes,
    config_to_dict,
    config_to_toml,
    differing_keys,
    load_config,
    parse_config,
)
from protokern.config.train import PruneConfig, TrainConfig
from protokern.data import PRESETS
from protokern.errors import ConfigError
from protokern.models import MODELS
from protokern.models.protopnet import ProtoPNetConfig
from protokern.models.protopool import ProtoPoolConfig

EXAMPLES = sorted((Path(__file__).parents[1] / "examples" / "configs").glob("*.toml"))


def mistake(*changes: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_defaults_are_the_original_s_numbers() -> None:
    config = RunConfig()
    model: Any = config.model
    assert (model.prototypes_per_class, model.prototype_dim, model.epsilon) == (10, 128, 1e-4)
    assert (model.correct_class_weight, model.incorrect_class_weight) == (1.0, -0.5)
    train = config.train
    assert (train.cross_entropy, train.cluster, train.separation, train.l1) == (1.0, 0.8, -0.08, 1e-4)
    assert (train.backbone_lr, train.add_on_lr, train.prototype_lr, train.last_layer_lr) == (1e-4, 3e-3, 3e-3, 1e-4)
    assert (train.batch_size, train.warm_epochs, train.push_start, train.push_every) == (80, 5, 10, 10)
    assert (train.schedule, train.step_size, train.step_gamma, train.weight_decay) == ("step", 5, 0.1, 1e-3)
    assert (train.last_layer_epochs, config.prune.k, config.prune.threshold) == (20, 6, 3)


def test_an_empty_table_is_the_defaults() -> None:
    assert parse_config({}) == RunConfig() == load_config(None)


def test_a_run_of_before_searches_as_it_did() -> None:
    table = config_to_dict(RunConfig())
    written = {**table, "model": {k: v for k, v in table["model"].items() if k not in ("top_k", "search_precision")}}
    config = parse_config(written)
    assert (config.model.top_k, config.model.search_precision) == (1, "auto")
    assert config == RunConfig()


def test_how_a_run_searches_is_written_down() -> None:
    config = load_config(None, ["model.top_k=3", "model.search_precision=tf32"])
    model = tomllib.loads(config_to_toml(config, {}))["model"]
    assert (model["top_k"], model["search_precision"]) == (3, "tf32")
    assert mistake("model.search_precision=fp8").startswith("model.search_precision: must be 'auto', 'fp32', ")
    assert mistake("model.top_k=9") == "model.top_k: must be from 1 to 8; got 9."


def test_a_written_configuration_is_read_back_the_same(tmp_path) -> None:
    config = RunConfig(
        model=ProtoPNetConfig(prototype_size=(2, 3), weights='we"ird\\päth 🐦.pt', epsilon=1e-7),
        data=DataConfig(image_size=(96, 128), path="/some where/é"),
        train=TrainConfig(frozen_layers=("body.0", "body.1"), backbone_lr=1e-5, seed=2**32 - 1),
        prune=PruneConfig(enabled=True),
    )
    path = tmp_path / "run.toml"
    path.write_text(config_to_toml(config, {"protokern": "0.1.0", "git": "abc"}), encoding="utf-8")
    assert load_config(path) == config
    assert tomllib.loads(path.read_text(encoding="utf-8"))["made_by"] == {"protokern": "0.1.0", "git": "abc"}
    assert parse_config(config_to_dict(config)) == config


@pytest.mark.parametrize("stage", [None, 0, -2])
def test_a_setting_that_is_not_set_is_left_out_of_the_file(tmp_path, stage) -> None:
    config = RunConfig(model=ProtoPNetConfig(backbone_stage=stage, salience=0.5, metric="cosine"))
    path = tmp_path / "run.toml"
    path.write_text(config_to_toml(config, {"protokern": "0.1.0"}), encoding="utf-8")
    assert load_config(path) == config
    assert ("backbone_stage" in path.read_text(encoding="utf-8")) == (stage is not None)


@pytest.mark.parametrize("mixup", ["auto", 0.0, 0.25])
def test_a_written_configuration_of_a_pool_is_read_back_the_same(tmp_path, mixup) -> None:
    config = RunConfig(
        model=ProtoPoolConfig(num_prototypes=30, slots_per_class=5, focal="similarity", last_layer="sum", compat=True),
        train=TrainConfig(hardening_epochs=0, orthogonality=0.5, mixup=mixup),
    )
    path = tmp_path / "run.toml"
    path.write_text(config_to_toml(config, {"protokern": "0.1.0"}), encoding="utf-8")
    assert load_config(path) == config
    assert parse_config(config_to_dict(config)) == config
    assert type(load_config(path).train.mixup) is type(mixup)


@pytest.mark.parametrize(
    ("change", "table", "key", "value"),
    [
        ("train.seed=3", "train", "seed", 3),
        ("train.l1=1e-3", "train", "l1", 1e-3),
        ("train.cluster=0", "train", "cluster", 0.0),
        ('model.backbone="tiny"', "model", "backbone", "tiny"),
        ("model.backbone=tiny", "model", "backbone", "tiny"),
        ("model.weights=/some/file-1.pt", "model", "weights", "/some/file-1.pt"),
        (" model.metric = 'cosine' ", "model", "metric", "cosine"),
        ("prune.enabled=true", "prune", "enabled", True),
        ("data.image_size=96", "data", "image_size", 96),
        ("data.image_size=[96, 128]", "data", "image_size", (96, 128)),
        ("model.prototype_size=[2, 2]", "model", "prototype_size", (2, 2)),
    ],
)
def test_a_change_is_toml_or_a_bare_word(change, table, key, value) -> None:
    config = load_config(None, [change])
    assert getattr(getattr(config, table), key) == value
    assert type(getattr(getattr(config, table), key)) is type(value)
    assert differing_keys(config, RunConfig()) == [f"{table}.{key}"]


def test_changes_come_after_the_file_and_the_last_one_wins(tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[train]\nseed = 1\nbatch_size = 7\n")
    config = load_config(path, ["train.seed=2", "train.seed=3"])
    assert (config.train.seed, config.train.batch_size) == (3, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.epochs=3", "train.epochs: no such key. Did you mean train.warm_epochs?"),
        (
            "train.batchsize=3",
            "train.batchsize: no such key. Did you mean train.batch_size? Allowed here: seed, batch_si",
        ),
        ("modle.name=protopnet", "modle: no such key. Did you mean model? Allowed here: model, data, train, prune."),
        ("train.batch_size=abc", "train.batch_size: must be a whole number; got 'abc'."),
        ("train.batch_size=2.5", "train.batch_size: must be a whole number; got 2.5."),
        ('train.batch_size="32"', "train.batch_size: must be a whole number; got '32'."),
        ("train.seed=true", "train.seed: must be a whole number; got True."),
        ("train.l1=high", "train.l1: must be a number; got 'high'."),
        ("prune.enabled=1", "prune.enabled: must be true or false; got 1."),
        ("prune.enabled=yes", "prune.enabled: must be true or false; got 'yes'."),
        ("model.metric=cosin", "model.metric: must be 'sqeuclidean', 'cosine' or 'dot'; got 'cosin'."),
        ("train.schedule=x", "train.schedule: must be 'constant', 'step', 'linear' or 'cosine'; got 'x'."),
        ("data.image_size=big", "data.image_size: must be a whole number or two of them in [ ]; got 'big'."),
        ("data.image_size=[1, 2, 3]", "data.image_size: must be a whole number or two of them in [ ]; got [1, 2, 3]."),
        ("model.backbone_stage=last", "model.backbone_stage: must be a whole number; got 'last'."),
        ("model.prototype_size=[1]", "model.prototype_size: must be two whole numbers in [ ]; got [1]."),
        ("train.frozen_layers=body", "train.frozen_layers: must be a list of texts in [ ]; got 'body'."),
        ("train=3", "train: must be a table of keys; got 3."),
        ("train.batch_size=0", "train.batch_size: must be a finite number of at least 1; got 0."),
        ("train.backbone_lr=-1e-4", "train.backbone_lr: must be a finite number of at least 0; got -0.0001."),
        ("train.add_on_lr=inf", "train.add_on_lr: must be a finite number of at least 0; got inf."),
        ("train.weight_decay=nan", "train.weight_decay: must be a finite number of at least 0; got nan."),
        ("train.l1=0", 'train.l1: must be greater than 0 with last_layer_solver = "convex"; got 0.0.'),
        ("train.last_layer_gap=1", "train.last_layer_gap: must be between 0 and 1; got 1.0."),
        ("train.last_layer_ridge=0", "train.last_layer_ridge: must be greater than 0; got 0.0."),
        ("train.last_layer_bound=0", "train.last_layer_bound: must be a finite number greater than 0; got 0.0."),
        ("train.last_layer_bound=inf", "train.last_layer_bound: must be a finite number greater than 0; got inf."),
        ("train.last_layer_path=0", "train.last_layer_path: must be a finite number of at least 1; got 0."),
        ("train.last_layer_lr=1e38", "train.last_layer_lr: must be at most 1e+30; got 1e+38."),
        ("train.separation=0.08", "train.separation: must be 0 or negative; got 0.08."),
        ("train.label_smoothing=1.0", "train.label_smoothing: must be from 0 up to, not including, 1; got 1.0."),
        ("train.mixup=autos", "train.mixup: must be a number or 'auto'; got 'autos'."),
        ("train.mixup=true", "train.mixup: must be a number or 'auto'; got True."),
        ("train.mixup=-0.5", "train.mixup: must be a finite number of at least 0; got -0.5."),
        ("train.hardening_epochs=-1", "train.hardening_epochs: must be a finite number of at least 0; got -1."),
        ("train.live_epochs=-1", "train.live_epochs: must be a finite number of at least 0; got -1."),
        ("train.live_epochs=1000001", "train.live_epochs: must be at most 1000000; got 1000001."),
        ("train.live_lr=autos", "train.live_lr: must be a number or 'auto'; got 'autos'."),
        ("train.live_lr=-1", "train.live_lr: must be a finite number of at least 0; got -1.0."),
        ("train.live_last_layer_lr=1e38", "train.live_last_layer_lr: must be at most 1e+30; got 1e+38."),
        ("train.orthogonality=nan", "train.orthogonality: must be a finite number of at least 0; got nan."),
        ("train.step_gamma=0", "train.step_gamma: must be greater than 0 and at most 1; got 0.0."),
        ("train.seed=-1", "train.seed: must be from 0 to 4294967295; got -1."),
        ("data.val_fraction=1", "data.val_fraction: must be between 0 and 1; got 1.0."),
        ("data.image_size=0", "data.image_size: must be at least 1; got 0."),
        ("model.epsilon=0", "model.epsilon: must be a finite number greater than 0; got 0.0."),
        ("model.prototypes_per_class=0", "model.prototypes_per_class: must be a finite number of at least 1; got 0."),
        ("model.correct_class_weight=inf", "model.correct_class_weight: must be a finite number; got inf."),
        ("model.activation=cosine", 'model.metric: must be "cosine" when activation is "cosine"; got \'sqeuclidean\'.'),
        ("model.metric=dot", 'model.activation: must be "linear" when metric is "dot"; got \'log\'.'),
        ("model=3", "model: must be a table of keys; got 3."),
        (
            "model.prototype_per_class=3",
            "model.prototype_per_class: no such key. Did you mean model.prototypes_per_class? Allowed here: ",
        ),
        ("prune.threshold=7", "prune.threshold: must be from 0 to k (6); got 7."),
        ("train.seed", "--set: must be section.key=value; got 'train.seed'. Write for example train.seed=1."),
        ("train..seed=1", "--set: must be section.key=value; got 'train..seed=1'."),
        ("train.seed.x.y=1", "train.seed: must be a whole number; got {'x': {'y': 1}}."),
        ("data.path=my photos", "--set data.path: 'my photos' is not a TOML value"),
        ("train.seed=", "--set train.seed: '' is not a TOML value"),
    ],
)
def test_a_mistake_is_one_line_with_the_path_and_what_is_allowed(change, message) -> None:
    assert mistake(change).startswith(message)


def test_a_value_that_needs_quotes_is_told_so() -> None:
    assert mistake("data.path=my photos").endswith("""text in quotes: --set data.path='"text"'.""")


def test_a_value_under_a_value_is_refused() -> None:
    assert mistake("train.seed=1", "train.seed.x=1") == "--set train.seed.x=1: 'seed' is a value, not a section."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "model.slots_per_clas=3",
            "model.slots_per_clas: no such key. Did you mean model.slots_per_class? Allowed here",
        ),
        ("model.focal=max", "model.focal: must be 'distance' or 'similarity'; got 'max'."),
        ("model.last_layer=mean", "model.last_layer: must be 'linear' or 'sum'; got 'mean'."),
        ("model.compat=1", "model.compat: must be true or false; got 1."),
        ("model.num_prototypes=9", "model.num_prototypes: must be at least slots_per_class (10), or 0; got 9."),
        ("model.slots_per_class=0", "model.slots_per_class: must be a finite number of at least 1; got 0."),
        ("model.schedule_epochs=0", "model.schedule_epochs: must be a finite number of at least 1; got 0."),
        ("model.incorrect_class_weight=nan", "model.incorrect_class_weight: must be a finite number; got nan."),
        ("model.epsilon=0", "model.epsilon: must be a finite number greater than 0; got 0.0."),
    ],
)
def test_a_mistake_about_a_pool_is_one_line_too(change, message) -> None:
    assert mistake("model.name=protopool", change).startswith(message)


def test_a_key_of_another_model_is_told_so() -> None:
    allowed = ", ".join(entry.name for entry in fields(ProtoPNetConfig))
    assert mistake("model.num_prototypes=30") == (
        "model.num_prototypes: no such key. It is a key of protopool and pipnet: set model.name for that. "
        f"Allowed here: {allowed}."
    )
    allowed = ", ".join(entry.name for entry in fields(ProtoPoolConfig))
    assert mistake("model.name=protopool", "model.prototypes_per_class=3").endswith(
        f"It is a key of protopnet and tesnet: set model.name for that. Allowed here: {allowed}."
    )


def test_every_model_of_the_registry_brings_its_settings() -> None:
    for name, model in MODELS.items():
        config = load_config(None, [f"model.name={name}"])
        assert type(config.model) is model.Config
        assert config.model.name == name
        assert differing_keys(config, config) == []


def test_keys_that_only_one_model_has_differ() -> None:
    keys = differing_keys(RunConfig(), load_config(None, ["model.name=protopool"]))
    assert keys[:1] == ["model.name"]
    assert {"model.prototypes_per_class", "model.num_prototypes", "model.slots_per_class"} <= set(keys)


def test_names_of_models_and_backbones_are_listed() -> None:
    allowed = ", ".join(MODELS)
    assert mistake("model.name=forest") == f"model.name: must be one of {allowed}; got 'forest'."
    assert mistake("model.name=3") == f"model.name: must be one of {allowed}; got 3."
    assert (
        mistake("model.name=protopol")
        == f"model.name: must be one of {allowed}; got 'protopol'. Did you mean protopool?"
    )
    assert (
        mistake("model.backbone=resnet")
        == f"model.backbone: must be one of {', '.join(list_backbones())}, torchvision/ and one of vit_b_16, vit_b_32, "
        "vit_l_16, vit_l_32, vit_h_14, or timm/ and a name of timm's; got 'resnet'."
    )


def test_the_augmentations_are_those_of_the_data() -> None:
    for name in PRESETS:
        assert load_config(None, [f"data.augmentation={name}"]).data.augmentation == name
    assert "'none', 'protopnet' or 'crop'" in mistake("data.augmentation=all")


def test_nothing_is_trained_without_an_epoch() -> None:
    assert mistake("train.warm_epochs=0", "train.joint_epochs=0").startswith("train.joint_epochs: must be at least 1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[train\n", "is not valid TOML"),
        (b"\xff\xfe", "is not valid TOML"),
        (b"[train]\nsed = 1\n", "train.sed: no such key. Did you mean train.seed?"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, content, message) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_a_folder_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"config: must be a readable TOML file; got .*none\.toml \(No such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"\(Is a directory\)"):
        load_config(tmp_path)


def test_changes_do_not_reach_into_the_given_table() -> None:
    table = {"train": {"seed": 1}}
    assert apply_changes(table, ["train.seed=2"]) == {"train": {"seed": 2}}
    assert table == {"train": {"seed": 1}}


def test_differing_keys_come_by_path_in_order() -> None:
    config = RunConfig()
    other = replace(config, data=replace(config.data, workers=3), train=replace(config.train, seed=9))
    assert differing_keys(config, other) == ["data.workers", "train.seed"]
    assert differing_keys(config, config) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_valid(path) -> None:
    load_config(path)


def test_the_original_s_example_spells_out_the_defaults() -> None:
    path = Path(__file__).parents[1] / "examples" / "configs" / "protopnet_cub.toml"
    changed = differing_keys(load_config(path), RunConfig())
    assert set(changed) <= {"model.weights", "data.workers", "train.last_layer_solver"}


OWNERS = (*(model.Config for model in MODELS.values()), DataConfig, TrainConfig, PruneConfig)


def test_every_key_is_documented() -> None:
    for owner in OWNERS:
        texts = " ".join(kind.__doc__ or "" for kind in owner.__mro__)  # what all models have is said in their base
        for entry in fields(owner):
            assert entry.name in texts, f"{owner.__name__}.{entry.name}"


def test_every_key_is_in_the_training_guide() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    for owner in OWNERS:
        for entry in fields(owner):
            assert f"`{entry.name}`" in guide, f"{owner.__name__}.{entry.name}"
