"""Several processes that train together on this machine, started cheaply, and a small training for them."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

from protokern.config import RunConfig, config_to_dict, parse_config
from protokern.data import BirdCounts, open_splits
from protokern.models.build import build_model
from protokern.ranks import Ranks
from protokern.runs.progress import set_seed
from protokern.train.optimizers import share_batch_norms
from protokern.train.state import Job, TrainingRun

CPU = torch.device("cpu")
BIRDS = BirdCounts(num_classes=3, train_per_class=7, val_per_class=3, test_per_class=3)  # a last batch of 5 images
TREE = {"name": "prototree", "backbone": "tiny", "depth": 3, "prototype_dim": 8}
POOL = {"name": "protopool", "backbone": "tiny", "num_prototypes": 6, "slots_per_class": 2, "prototype_dim": 8}
NET = {"backbone": "tiny", "prototypes_per_class": 2, "prototype_dim": 8}

_STORES: list[TCPStore] = []  # as torchrun has them: they outlive the processes


def birds_config(*, model: dict[str, Any] | None = None, rule: str = "compat", **train: Any) -> RunConfig:
    defaults = {
        "batch_size": 8,
        "warm_epochs": 1,
        "joint_epochs": 2,
        "hardening_epochs": 1,
        "last_layer_epochs": 3,
        "last_layer_lr": 1e-2,
        "batch_norm": "frozen",
    }
    return parse_config(
        {
            "model": model or NET,
            "data": {"image_size": 32},
            "train": {**defaults, **train},
            "prune": {"enabled": True, "k": 3, "threshold": 2, "rule": rule, "loss_ratio": 2.0},
        }
    )


def birds_run(
    folder: Path, config: RunConfig, ranks: Ranks, should_stop: Callable[[], bool] = lambda: False
) -> TrainingRun:
    folder.mkdir(parents=True, exist_ok=True)
    set_seed(config.train.seed, 0)
    splits = open_splits(None, image_size=32, birds=BIRDS)
    model = build_model(config.model, len(splits.classes), 32)
    share_batch_norms(model, config.train, ranks, CPU)
    return TrainingRun(
        Job(
            folder=folder,
            model=model,
            splits=splits,
            classes=tuple(splits.classes),
            config=config_to_dict(config),
            train=config.train,
            prune=config.prune,
            ranks=ranks,
            should_stop=should_stop,
        )
    )


def start_ranks(size: int, function: Callable[..., int], *arguments: Any, logs: Path) -> list[BaseProcess]:
    """Start `function(*arguments)` in `size` processes, as torchrun would; their stderr goes to logs/<rank>.

    They are forked from a server that has imported everything already.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    _STORES.append(store)
    logs.mkdir(parents=True, exist_ok=True)
    processes = [
        context.Process(target=_be_rank, args=(rank, size, store.port, logs, function, arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes  # type: ignore[return-value]


def end_of(processes: list[BaseProcess], *, seconds: float = 60) -> list[int | None]:
    """The exit codes; processes that do not end in time are killed."""
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    return codes


def said(logs: Path) -> list[str]:
    """All lines that the processes wrote to stderr."""
    return [line for path in sorted(logs.iterdir()) for line in path.read_text().splitlines()]


def _be_rank(
    rank: int, size: int, port: int, logs: Path, function: Callable[..., int], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    torch.set_num_threads(1)
    with open(logs / str(rank), "w", buffering=1) as file:
        os.dup2(file.fileno(), 2)
        sys.exit(function(*arguments))
