"""How the processes that torchrun starts form one training, print each message once, and end together.

    torchrun --nproc-per-node 2 -m protokern train --out RUN ...

A process that fails notes it in the store of the rendezvous, which all processes can read, before it ends. The others
then end silently, so that an error is one line for any number of processes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from datetime import timedelta

import torch
import torch.distributed as dist

from protokern.errors import ConfigError, LostContactError, OtherProcessError, TrainingError
from protokern.ranks import SINGLE, Ranks, explain_lost_contact

# How long a rank waits for the others: longer than the first rank ever works alone, for example on the last layer.
SILENCE_MINUTES = 30
_FAILED = "protokern/failed"
_board: ContextVar[dist.Store | None] = ContextVar("_board", default=None)


def num_processes() -> int:
    """The number of processes that torchrun has started for this run; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def device_of_process(device: torch.device) -> torch.device:
    """The GPU of this process, one per process of a machine; the device itself if it is no GPU or has a number.

    Raises:
        ConfigError: the machine has fewer GPUs than processes.
    """
    if num_processes() == 1 or device.type != "cuda":
        return device
    local, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if device.index is not None or torch.cuda.device_count() < local_size:
        raise ConfigError(
            f"--device: must leave a GPU to each of the {local_size} processes of this machine; got {device} "
            f"and {torch.cuda.device_count()} GPUs. Give --device cuda and at most one process a GPU, or --device cpu."
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[Ranks]:
    """Within the block the processes of this run are connected as ranks; a single process connects to nothing.

    Args:
        device: of this process; all processes have the same kind of device.

    Raises:
        OtherProcessError: another rank has failed and has printed why.
        TrainingError: another rank has ended and has not printed why.
    """
    if num_processes() == 1:
        yield SINGLE
        return
    patience = timedelta(minutes=SILENCE_MINUTES)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        with explain_lost_contact():
            store, rank, size = next(dist.rendezvous("env://", timeout=patience))
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
    except LostContactError as error:
        raise TrainingError(f"torchrun: the processes of this run did not find each other ({error}).") from error
    ranks = Ranks(rank, size)
    token = _board.set(store)
    try:
        yield ranks
    except (Exception, KeyboardInterrupt) as error:
        _end(store, ranks, error)
    finally:
        _board.reset(token)
    dist.destroy_process_group()  # not after an error, when it could wait for a process that has ended


@contextmanager
def quiet_unless_first(ranks: Ranks) -> Iterator[None]:
    """Within the block only the first rank prints and warns, because the others would print the same."""
    if ranks.is_first:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def has_another_failed() -> bool:
    """Whether another process of the run has noted that it failed; torchrun then stops this one."""
    board = _board.get()
    try:
        return board is not None and board.check([_FAILED])
    except RuntimeError:  # the first rank, which held the store, has ended
        return False


def _end(store: dist.Store, ranks: Ranks, error: BaseException) -> None:
    """Raise the error on the rank that is the first to have one, and OtherProcessError on the others."""
    if isinstance(error, OtherProcessError):  # has nothing to print, and must not silence the process that has
        raise error
    try:
        is_said = store.add(_FAILED, 1) > 1
    except RuntimeError:  # the first rank, which held the store, has ended
        is_said = False
    if is_said:
        raise OtherProcessError("another process of the run has failed, and has said why") from error
    if isinstance(error, LostContactError):
        raise TrainingError(
            f"process {ranks.rank} of {ranks.size} has lost another one, which was killed or has hung for "
            f"{SILENCE_MINUTES} minutes. The last checkpoint is whole; go on with --resume."
        ) from error
    raise error
