"""`protokern train`: data and configuration in, a run folder out."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch

from protokern.backbones import has_imagenet_weights
from protokern.cli.arguments import add_device_argument, add_set_argument, choose_device
from protokern.cli.own_split_file import settle_own_split
from protokern.cli.quality import look_at, marked
from protokern.cli.run_folder import (
    RUN_FILE,
    check_new_run,
    check_results,
    check_vacant,
    forget_first_checkpoint,
    got_nowhere,
    is_as_written,
)
from protokern.cli.runs import feature_store, open_data, open_run, versions, with_absolute_store, with_data
from protokern.cli.show import show_training
from protokern.cli.stop_signals import StopRequest
from protokern.config import RunConfig, config_to_dict, config_to_toml, differing_keys, load_config, parse_config
from protokern.config.run import RUN_FORMAT, with_old_defaults
from protokern.data import Splits
from protokern.errors import CheckpointError, ConfigError, LostContactError
from protokern.explain.receptive_field import find_middle_field, share_of_image
from protokern.models.base import PrototypeModel
from protokern.models.build import build_model, build_untrained, place_model
from protokern.models.feature_shape import in_channels_of
from protokern.nn import evaluating
from protokern.ranks import Ranks, explain_lost_contact
from protokern.storage.files import write_file
from protokern.storage.lock import lock_run
from protokern.train.batch_norms import check_batches, share_batch_norms
from protokern.train.checkpoint import find_resumable, read_state
from protokern.train.distributed import device_of_process, has_another_failed, joined_ranks
from protokern.train.logger import append_record
from protokern.train.loop import train
from protokern.train.reading import explain_lost_workers
from protokern.train.records import Notice
from protokern.train.resume import set_seed
from protokern.train.run import TrainingRun, resume_run

# Where the images are, how they are read and how a step is computed may change between a run and its resumption.
_FREE_KEYS = (
    "data.path",
    "data.workers",
    "data.cache",
    "data.max_image_pixels",
    "data.feature_store",
    "train.accumulation",
    "train.compile",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("--config", metavar="FILE", help="TOML file; see examples/configs")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder with train/, test/, perhaps val/, or with class folders alone; default: synthetic birds",
    )
    parser.add_argument("--out", metavar="RUN", required=True, help="run folder to write")
    parser.add_argument("--resume", action="store_true", help="go on with the run in RUN")
    add_device_argument(parser)
    add_set_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Train, then write the prototypes and the page of the run."""
    device = device_of_process(choose_device(args.device))
    with joined_ranks(device) as ranks, _heard_once(ranks):
        folder = Path(args.out)
        with ExitStack() as held:
            if args.resume and ranks.is_first and (folder / RUN_FILE).exists():
                held.enter_context(lock_run(folder))
            return _train(args, folder, held, device, ranks)


def _train(args: argparse.Namespace, folder: Path, held: ExitStack, device: torch.device, ranks: Ranks) -> int:
    config = _resumed_config(args, folder) if args.resume else _new_config(args, folder)
    checkpoint = find_resumable(folder) if args.resume else None
    splits = open_data(config, (ranks.rank, ranks.size), run=folder if args.resume else None)
    config = replace(config, data=replace(config.data, grey_range=splits.grey_range))  # as measured, if it was "auto"
    splits = replace(splits, notes=(*splits.notes, *notes_on_weights(config)))
    if ranks.is_first:
        splits = look_at(splits)
    work = _make_run(folder, config, splits, device, ranks, is_resumed=checkpoint is not None)
    ranks.wait()  # every rank has looked at the folder before the first one writes into it
    if checkpoint is not None:
        _check_agreement(folder / RUN_FILE, config, checkpoint)
        print(f"going on from {checkpoint}", flush=True)
        resume_run(work, checkpoint)
    elif ranks.is_first:
        _begin(folder, config, splits, held, is_resumed=args.resume)
    stop = StopRequest()
    work.should_stop = stop.is_made
    try:
        with stop.listening(ranks.size), explain_lost_contact(), explain_lost_workers():
            show_training(train(work))
    except (KeyboardInterrupt, LostContactError) as error:
        if isinstance(error, LostContactError) and (has_another_failed() or not stop.is_made()):
            raise
        where = f"The last checkpoint is {work.last_checkpoint}; go on with --resume." if work.last_checkpoint else ""
        if ranks.is_first:
            print(f"protokern train: stopped. {where}", file=sys.stderr)
        return stop.exit_code
    if ranks.is_first:
        _write_pages(work, splits)
    return 0


@contextmanager
def _heard_once(ranks: Ranks) -> Iterator[None]:
    """What ranks but the first one print and warn of is what the first one does already."""
    if ranks.is_first:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _begin(folder: Path, config: RunConfig, splits: Splits, held: ExitStack, *, is_resumed: bool) -> None:
    """Make the run folder, and take its lock unless it is held already."""
    folder.mkdir(parents=True, exist_ok=True)
    if not is_resumed:
        held.enter_context(lock_run(folder))
        check_vacant(folder)  # again: another process may have come first
        if got_nowhere(folder):
            print(f"beginning anew in {folder}: the training there did not come to the end of its first step")
            forget_first_checkpoint(folder)
    settle_own_split(folder, splits.own_split)  # first: a run of which there is a configuration has it
    if not is_resumed or is_as_written(folder / RUN_FILE):
        write_file(folder / RUN_FILE, config_to_toml(config, {"format": RUN_FORMAT, **versions()}).encode())


def _new_config(args: argparse.Namespace, folder: Path) -> RunConfig:
    check_vacant(folder)
    config = with_absolute_store(with_data(load_config(args.config, args.changes), args.data))
    check_new_run(folder, config)
    return config


def _resumed_config(args: argparse.Namespace, folder: Path) -> RunConfig:
    """The run's own configuration; what is given again must agree with it."""
    run_file = folder / RUN_FILE
    if not run_file.exists():
        raise CheckpointError(f"--resume: {folder} has no {RUN_FILE}, so no run to go on with. Leave out --resume.")
    before = load_config(run_file)
    config = with_data(load_config(args.config or run_file, args.changes), args.data or before.data.path or None)
    check_results(folder)
    if config.data.grey_range == "auto":  # which was measured when the run began
        config = replace(config, data=replace(config.data, grey_range=before.data.grey_range))
    changed = [key for key in differing_keys(before, config) if key not in _FREE_KEYS]
    if changed:
        old, new = (_value_of(one, changed[0]) for one in (before, config))
        raise ConfigError(
            f"{changed[0]}: must stay {old!r}, as in {run_file}, to resume; got {new!r}. "
            "Leave it out, or start a new run in another folder."
        )
    return with_absolute_store(config)


def _check_agreement(run_file: Path, config: RunConfig, checkpoint: Path) -> None:
    """A run.toml that was changed, by hand or by a failing disk, would silently go on with another training."""
    trained = parse_config(with_old_defaults(read_state(checkpoint).config))
    changed = [key for key in differing_keys(trained, config) if key not in _FREE_KEYS]
    if changed:
        old, new = (_value_of(one, changed[0]) for one in (trained, config))
        raise CheckpointError(
            f"{run_file}: must say what {checkpoint.name} was trained with, {changed[0]} = {old!r}; got {new!r}. "
            "Write it back, or start a new run in another folder."
        )


def _value_of(config: RunConfig, key: str) -> object:
    table, name = key.split(".")
    return config_to_dict(config)[table][name]


def notes_on_weights(config: RunConfig) -> tuple[str, ...]:
    """That a backbone starts from nothing where one would take it to be trained."""
    model, channels = config.model, config.data.channels
    if channels == 3 or model.weights != "auto" or not has_imagenet_weights(model.backbone):
        return ()
    return (f"{model.backbone} starts with random weights, since those of ImageNet are for 3 channels, not {channels}",)


def note_on_patches(model: PrototypeModel, image_size: tuple[int, int]) -> str:
    """How many patches an image of `image_size` (Y, X) has, and how much of it one of them can depend on."""
    channels = in_channels_of(model.backbone)
    parameter = next(model.parameters())
    image = torch.zeros(channels, *image_size, device=parameter.device, dtype=parameter.dtype)
    with evaluating(model):
        rows, columns = model.features(image[None]).shape[2:]
        share = share_of_image(find_middle_field(model.features, image), image_size)
    return f"images have {rows} x {columns} patches, of which one in the middle sees {share:.0%} of the image"


def _make_run(
    folder: Path, config: RunConfig, splits: Splits, device: torch.device, ranks: Ranks, *, is_resumed: bool
) -> TrainingRun:
    set_seed(config.train.seed, 0)
    build = build_untrained if is_resumed else build_model
    model = build(config.model, len(splits.classes), config.data.image_size, config.data.channels)
    # Now, so that a wrong name in train.frozen_layers costs no warm epoch.
    share_batch_norms(model, config.train, ranks, device)
    if ranks.size == 1:
        check_batches(model, config.train, len(splits.train), splits.train.image_size)
    if config.train.backbone == "train":  # a frozen one sees every image once
        splits.train.preload()
        splits.push.preload()
    model = place_model(model, device, config.train.channels_last)
    patches = (note_on_patches(model, splits.push.image_size),) if ranks.is_first and not is_resumed else ()
    return TrainingRun(
        folder=folder,
        model=model,
        splits=replace(splits, notes=(*splits.notes, *marked(splits.warnings or ()), *patches)),
        classes=tuple(splits.classes),
        config=config_to_dict(config),
        train=config.train,
        prune=config.prune,
        workers=config.data.workers,
        feature_store=feature_store(config),
        feature_precision=config.data.feature_precision,
        ranks=ranks,
    )


def _write_pages(work: TrainingRun, splits: Splits) -> None:
    """The prototypes as pictures, and the page of the run."""
    from protokern.cli.prototype_files import write_prototypes  # with matplotlib and jinja2, too heavy for --help
    from protokern.cli.report import write_page

    assert work.push is not None  # every plan has a push
    write_prototypes(work.folder, work.model, splits, work.push)
    opened = open_run(str(work.folder), data=None, changes=(), device=torch.device("cpu"))
    page, warnings = write_page(opened, splits)
    for line in marked(warnings):
        if line not in marked(splits.warnings or ()):  # those were said when the training began
            append_record(work.log_path, Notice(text=line))  # a resumed run cuts it off, and says it again
            print(line)
    print(f"wrote {page}", flush=True)
