"""Search settings with Optuna: the backbone runs once over the photographs, and each trial trains only the head.

pip install optuna
python examples/tune_with_optuna.py photographs --trials 50

A trial that does worse than the median of the others after the same epoch is given up. Only validation images choose.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna

from protokern.config import RunConfig, config_to_dict, load_config
from protokern.config.run import with_data
from protokern.data import Splits
from protokern.models.build import build_model
from protokern.runs.data import open_data
from protokern.runs.log import EpochRecord, StageRecord
from protokern.runs.progress import set_seed
from protokern.train.loop import train
from protokern.train.state import Job, TrainingRun

SHOWN = 5  # trials in the table


def suggest(trial: optuna.Trial) -> list[str]:
    """The settings of a trial, as `--set` takes them; the recipe `quick` has the others."""
    chosen: dict[str, Any] = {
        "model.prototypes_per_class": trial.suggest_int("model.prototypes_per_class", 2, 6),
        "model.prototype_dim": trial.suggest_categorical("model.prototype_dim", [128, 256, 512]),
        "model.correct_class_weight": trial.suggest_float("model.correct_class_weight", 3.0, 30.0, log=True),
        "train.add_on_lr": trial.suggest_float("train.add_on_lr", 3e-4, 1e-2, log=True),
        "train.weight_decay": trial.suggest_float("train.weight_decay", 1e-4, 1e-1, log=True),
    }
    return [f"{key}={value}" for key, value in chosen.items()]


def records_of(config: RunConfig, splits: Splits, store: Path, folder: Path) -> Iterator[EpochRecord | StageRecord]:
    """Train in `folder` on the features in `store`, which the first training writes, and give what it logs."""
    set_seed(config.train.seed, 0)
    model = build_model(config.model, len(splits.classes), config.data.image_size, config.data.channels)
    job = Job(
        folder=folder,
        model=model.eval(),
        splits=splits,
        classes=tuple(splits.classes),
        config=config_to_dict(config),
        train=config.train,
        prune=config.prune,
        feature_store=store,
        feature_precision=config.data.feature_precision,
    )
    for event in train(TrainingRun(job)):
        if isinstance(event, (EpochRecord, StageRecord)):
            yield event


def main(arguments: list[str] | None = None) -> optuna.Study:
    """Run the trials, print the best of them, and the command that trains with the first."""
    parser = argparse.ArgumentParser(description="Search settings with Optuna.")
    parser.add_argument("data", help="folder of photographs, as for 'protokern train --data'")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--val-fraction", type=float, default=0.2, help="of the training images, if there is no val/")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="a setting of all trials")
    args = parser.parse_args(arguments)
    fixed = [f"data.val_fraction={args.val_fraction}", f"train.live_epochs={args.epochs}", *args.changes]

    with tempfile.TemporaryDirectory() as folder:
        splits = open_data(with_data(load_config(None, fixed, "quick"), args.data))

        def objective(trial: optuna.Trial) -> float:
            config = with_data(load_config(None, [*fixed, *suggest(trial)], "quick"), args.data)
            run = Path(folder, f"trial-{trial.number}")
            run.mkdir()
            val = 0.0
            for record in records_of(config, splits, Path(folder, "features"), run):
                val = record.val_accuracy
                if isinstance(record, EpochRecord):
                    trial.report(val, record.epoch)
                    if trial.should_prune():
                        raise optuna.TrialPruned
            return val

        sampler = optuna.samplers.TPESampler(seed=0)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
        study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        study.optimize(objective, n_trials=args.trials)
    tell(study, args.data)
    return study


def tell(study: optuna.Study, data: str) -> None:
    """Print the best trials and what to do with the first."""
    done = sorted(study.get_trials(states=[optuna.trial.TrialState.COMPLETE]), key=lambda one: -(one.value or 0.0))
    print(f"{len(study.trials)} trials, {len(study.trials) - len(done)} of them given up early")
    names = list(study.best_params)
    print("trial    val  " + "  ".join(names))
    for one in done[:SHOWN]:
        values = (f"{one.params[name]:>{len(name)}.4g}" for name in names)
        print(f"{one.number:>5}  {one.value:>5.1%}  " + "  ".join(values))
    best = " ".join(f"--set {key}={value}" for key, value in study.best_params.items())
    print(f"protokern train --recipe quick --data {data} {best}")


if __name__ == "__main__":
    main()
