"""The work of `protokern train`, whose flags and quick checks are in `train.py`, which does without torch."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from protokern.backbones import has_imagenet_weights
from protokern.cli.show import describe, describe_forecast, marked, progress_in_turn, show_training
from protokern.cli.stop_signals import StopRequest
from protokern.config import RunConfig, config_to_dict, config_to_toml, load_config
from protokern.config.run import RUN_FORMAT, feature_store, fits_recipe, with_data
from protokern.data import Splits
from protokern.data.amount import Amount
from protokern.errors import ConfigError, LostContactError
from protokern.explain.receptive_field import find_middle_field
from protokern.inputs.workers import explain_lost_workers
from protokern.models.base import PrototypeModel
from protokern.models.build import build_model, build_untrained, place_model
from protokern.models.feature_shape import in_channels_of
from protokern.nn import evaluating
from protokern.ranks import Ranks, explain_lost_contact
from protokern.recipes import RECIPES, default_recipe
from protokern.recipes.sizes import SIZED, sizes_for
from protokern.report.closing import closing_lines
from protokern.results.places import share_of_image
from protokern.runs.checkpoints import Checkpoint, find_resumable, read_checkpoint
from protokern.runs.continued import (
    NET_OF,
    check_can_go_on,
    check_continued,
    continued_config,
    forbidden_of,
    path_of,
    read_source,
    refuse_kept_start,
    refuse_lost_start,
    sources_of,
    split_folder,
)
from protokern.runs.data import check_classes, count_data, open_data
from protokern.runs.features import RunFeatures
from protokern.runs.folder import (
    RUN_FILE,
    check_agreement,
    check_vacant,
    forget_first_checkpoint,
    got_nowhere,
    is_as_written,
    new_config,
    resumed_config,
    unnamed_folder,
    versions,
)
from protokern.runs.forbidden import Forbidden, read_forbidden, settle_forbidden
from protokern.runs.log import Notice, append_record
from protokern.runs.open import choose_device, open_run
from protokern.runs.progress import set_seed
from protokern.runs.quality import look_at
from protokern.runs.split import settle_own_split
from protokern.storage.files import write_file
from protokern.storage.lock import lock_run
from protokern.storage.names import one_line
from protokern.train.checks import check_leaves, check_settings
from protokern.train.forbidden import ForbiddenPlaces, check_grid, find_places
from protokern.train.forecast import forecast
from protokern.train.loop import train
from protokern.train.optimizers import check_batches, share_batch_norms
from protokern.train.processes import device_of_process, has_another_failed, joined_ranks, quiet_unless_first
from protokern.train.state import Job, TrainingRun


def run_training(args: argparse.Namespace) -> int:
    """Train, then write the prototypes and the page of the run."""
    device = device_of_process(choose_device(args.device))
    with joined_ranks(device) as ranks, quiet_unless_first(ranks), ExitStack() as held:
        if args.resume_from is not None and ranks.size > 1:
            raise ConfigError(f"--resume-from: must be trained in one process; got {ranks.size}. Start one.")
        told = _choose_recipe(args, device)
        folder = held.enter_context(_folder_of_its_own(args, ranks)) if args.out is None else Path(args.out)
        if args.resume and ranks.is_first and (folder / RUN_FILE).exists():
            held.enter_context(lock_run(folder))
        if told:
            print(told, flush=True)
        return _train(args, folder, held, device, ranks)


def _choose_recipe(args: argparse.Namespace, device: torch.device) -> str:
    """Give a training without any settings its recipe; return the line that says which one, why, and what else.

    Settings that name a model of another kind begin with the defaults. A resumed run has its own settings, and one that
    begins with the net of another run has those of that run.
    """
    if args.recipe is not None or args.config is not None or args.resume or args.resume_from is not None:
        return ""
    name = default_recipe(has_gpu=device.type != "cpu")
    if not fits_recipe(name, args.changes):
        return "recipe: none, because those that there are are for another model; the settings begin with the defaults"
    args.recipe = name
    others = " or ".join(f"--recipe {other}" for other in RECIPES if other != name)
    where = "a CPU" if device.type == "cpu" else "a GPU"
    return f"recipe: {name}, because this runs on {where}; to choose another: {others}, see 'protokern recipes'"


def _configure(args: argparse.Namespace, folder: Path, source: Checkpoint | None) -> RunConfig:
    """The configuration of a new or a resumed run. Sizes that follow the data are printed."""
    given = (args.config, args.changes, args.data, args.recipe)
    if args.resume:
        return resumed_config(folder, *given)
    if source is not None:
        config = continued_config(source, *given)
        check_continued(folder, config)
        return config
    if args.recipe != SIZED:
        return refuse_kept_start(new_config(folder, *given))
    amount = count_data(with_data(load_config(args.config, args.changes, args.recipe), args.data))
    config = refuse_kept_start(new_config(folder, *given, sizes_for(amount.images, amount.classes)))
    print(describe_sizes(config, amount), flush=True)
    return config


def describe_sizes(config: RunConfig, amount: Amount) -> str:
    """The sizes that follow the data, as they are now, in a line."""
    train, prototypes = config.train, getattr(config.model, "prototypes_per_class", 0)
    return (
        f"sizes for {amount.images:,} training images of {amount.classes:,} classes: "
        f"{_counted(prototypes, 'prototype')} a class, {_counted(train.live_epochs, 'epoch')}, "
        f"{_counted(train.batch_size, 'image')} a step, {config.data.val_fraction:.2g} of the training images held out "
        "if there is no val/; --set changes any of these"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@contextmanager
def _folder_of_its_own(args: argparse.Namespace, ranks: Ranks) -> Iterator[Path]:
    """The folder of a run that was given none, as `unnamed_folder` chooses it.

    Raises:
        ConfigError: the run goes on with another one, or several processes would each choose.
    """
    if args.resume:
        raise ConfigError("--out: must name the run that --resume goes on with; got none. Give --out RUN.")
    if ranks.size > 1:
        raise ConfigError("--out: must be given to several processes, which write one run; got none. Give --out RUN.")
    given = (args.config, args.changes)
    if args.resume_from is None:
        config = with_data(load_config(*given, args.recipe), args.data)
    else:
        config = continued_config(read_source(args.resume_from), *given, args.data, args.recipe)
    with unnamed_folder(config) as folder:
        print(f"run folder: {folder}", flush=True)
        args.run = folder  # where a fault of the program leaves its traceback
        yield folder


def _train(args: argparse.Namespace, folder: Path, held: ExitStack, device: torch.device, ranks: Ranks) -> int:
    source = None if args.resume_from is None else read_source(args.resume_from)
    config = _configure(args, folder, source)
    checkpoint = find_resumable(folder) if args.resume else None
    if args.resume and checkpoint is None:
        refuse_lost_start(folder)
    own_split = folder if args.resume else None if source is None else split_folder(source, config)
    splits = open_data(config, (ranks.rank, ranks.size), run=own_split)
    config = replace(config, data=replace(config.data, grey_range=splits.grey_range))  # as measured, if it was "auto"
    notes = notes_on_weights(config) if source is None else (note_on_source(source),)
    splits = replace(splits, notes=(*splits.notes, *notes))
    if ranks.is_first:
        splits = look_at(splits, progress_in_turn())
    stop = StopRequest()
    forbidden = read_forbidden(folder) if args.resume else None if source is None else forbidden_of(source)
    job = _make_job(
        folder, config, splits, device, ranks, stop, forbidden, source=source, is_resumed=checkpoint is not None
    )
    state = TrainingRun(job, push=None if source is None else sources_of(source, config))
    ranks.wait()  # every rank has looked at the folder before the first one writes into it
    if checkpoint is not None:
        resumed = read_checkpoint(checkpoint)
        check_agreement(folder / RUN_FILE, config, resumed)
        print(f"going on from {checkpoint}", flush=True)
        state.resume(resumed)
    elif ranks.is_first:
        made_by = versions() if source is None else {**versions(), NET_OF: path_of(source)}
        _begin(folder, config, made_by, splits, forbidden, held, is_resumed=args.resume)
    if not _train_until_stopped(state, stop):
        if ranks.is_first:
            _write_pages(state, splits, folder, with_report=not args.no_report)
        return 0
    again = "--resume" if args.out is not None else f"--out {shlex.quote(str(folder))} --resume"
    where = f"The last checkpoint is {state.last_checkpoint}; go on with {again}." if state.last_checkpoint else ""
    if ranks.is_first:
        print(f"protokern train: stopped. {where}", file=sys.stderr)
    return stop.exit_code


def _train_until_stopped(state: TrainingRun, stop: StopRequest) -> bool:
    """Train until the end or until a stop is requested; return whether one was requested.

    Raises:
        LostContactError: another process has ended, and not because of a requested stop.
    """
    try:
        with stop.listening(state.job.ranks.size), explain_lost_contact(), explain_lost_workers():
            _tell_plan(state)
            is_stopped = show_training(train(state)) is not None
            if is_stopped:
                stop.meet()
            return is_stopped
    except KeyboardInterrupt:
        return True
    except LostContactError:
        if has_another_failed() or not stop.is_made():
            raise
        return True


def _tell_plan(state: TrainingRun) -> None:
    """Begin a new run, and say how long its parts will take."""
    if state.progress.images:  # it goes on
        return
    for notice in state.start():
        print(describe(notice), flush=True)
    known = forecast(state.job)
    if known is not None:
        print(describe_forecast(known), flush=True)


def _begin(
    folder: Path,
    config: RunConfig,
    made_by: dict[str, str],
    splits: Splits,
    forbidden: Forbidden | None,
    held: ExitStack,
    *,
    is_resumed: bool,
) -> None:
    """Create the run folder, and take its lock unless it is already held."""
    folder.mkdir(parents=True, exist_ok=True)
    if not is_resumed:
        held.enter_context(lock_run(folder))
        check_vacant(folder)  # again: another process may have come first
        if got_nowhere(folder):
            print(f"starting over in {folder}: the training there did not finish its first step")
            forget_first_checkpoint(folder)
    settle_own_split(folder, splits.own_split)  # first: a run with a run.toml must also have its split
    settle_forbidden(folder, forbidden)
    if not is_resumed or is_as_written(folder / RUN_FILE):
        write_file(folder / RUN_FILE, config_to_toml(config, {"format": RUN_FORMAT, **made_by}).encode())


def note_on_source(source: Checkpoint) -> str:
    """The note that a run begins with the net of another one."""
    return f"goes on from {one_line(Path(path_of(source)).name)}, with the net of its checkpoint {source.folder.name}"


def notes_on_weights(config: RunConfig) -> tuple[str, ...]:
    """The note that a backbone starts with random weights although pretrained ones would be expected."""
    model, channels = config.model, config.data.channels
    if channels == 3 or model.weights != "auto" or not has_imagenet_weights(model.backbone):
        return ()
    return (f"{model.backbone} starts with random weights, since those of ImageNet are for 3 channels, not {channels}",)


def note_on_patches(model: PrototypeModel, image_size: tuple[int, int]) -> str:
    """The note on how many patches an image of `image_size` (Y, X) has, and how much of it one patch can depend on."""
    channels = in_channels_of(model.backbone)
    image = torch.zeros(channels, *image_size, device=model.device, dtype=model.dtype)
    with evaluating(model):
        rows, columns = model.features(image[None]).shape[2:]
        share = share_of_image(find_middle_field(model.features, image), image_size)
    return f"images have {rows} x {columns} patches, of which one in the middle sees {share:.0%} of the image"


def notes_on_positions(model: PrototypeModel, image_size: tuple[int, int]) -> tuple[str, ...]:
    """The note that a transformer's position embeddings are for images of another size than `image_size` (Y, X)."""
    made_for = getattr(getattr(model.backbone, "body", None), "made_for", None)
    if made_for in (None, image_size):
        return ()
    sizes = [f"{rows} x {columns}" for rows, columns in (made_for, image_size)]
    return (
        f"the position embeddings of the backbone are for {sizes[0]} pixels, and are resized for a "
        f"data.image_size of {sizes[1]}",
    )


def _make_job(
    folder: Path,
    config: RunConfig,
    splits: Splits,
    device: torch.device,
    ranks: Ranks,
    stop: StopRequest,
    forbidden: Forbidden | None,
    *,
    source: Checkpoint | None,
    is_resumed: bool,
) -> Job:
    set_seed(config.train.seed, 0)
    is_new = source is None and not is_resumed
    build = build_model if is_new else build_untrained
    model = build(config.model, len(splits.classes), config.data.image_size, config.data.channels)
    if source is not None:
        check_can_go_on(model)
        check_classes(splits, source.state.classes)
        source.load_weights(model)
    check_settings(model, config.train, len(splits.train), ranks)
    if is_new:
        check_leaves(model, len(splits.train))
    # Now, so that a wrong name in train.frozen_layers costs no warm epoch.
    share_batch_norms(model, config.train, ranks, device)
    if ranks.size == 1:
        check_batches(model, config.train, len(splits.train), splits.train.image_size)
    splits = replace(splits, train=splits.train.with_views(model.views))
    if config.train.backbone == "train":  # a frozen backbone sees every image once
        splits.train.preload()
        splits.push.preload()
    model = place_model(model, device, config.train.channels_last)
    places, told = find_forbidden(forbidden, model, splits, ranks)
    patches: tuple[str, ...] = ()
    if ranks.is_first and not is_resumed:
        patches = (*notes_on_positions(model, splits.push.image_size), note_on_patches(model, splits.push.image_size))
    return Job(
        folder=folder,
        model=model,
        splits=replace(splits, notes=(*splits.notes, *marked(splits.warnings or ()), *told, *patches)),
        classes=tuple(splits.classes),
        config=config_to_dict(config),
        train=config.train,
        prune=config.prune,
        workers=config.data.workers,
        feature_store=feature_store(config),
        feature_precision=config.data.feature_precision,
        forbidden=places,
        ranks=ranks,
        should_stop=stop.is_made,
    )


def find_forbidden(
    forbidden: Forbidden | None, model: PrototypeModel, splits: Splits, ranks: Ranks
) -> tuple[ForbiddenPlaces | None, tuple[str, ...]]:
    """The forbidden places of a run in its data, and notes on them.

    Raises:
        ConfigError: they are forbidden in a training that several processes share, or in another grid of patches.
    """
    if forbidden is None:
        return None, ()
    if ranks.size > 1:
        raise ConfigError(f"forbidden.json: must be of a run that one process trains; got {ranks.size}. Start one.")
    places, note = find_places(forbidden, splits.push, splits.classes)
    if places is not None:
        check_grid(model, splits.push, places)
    return places, (note,)


def _write_pages(state: TrainingRun, splits: Splits, folder: Path, *, with_report: bool) -> None:
    """The prototypes as pictures; if it is wanted, the page of the run; then what came out, in five lines."""
    from protokern.explain.collect import write_page
    from protokern.explain.prototypes import write_prototypes  # with matplotlib and jinja2, too heavy for --help

    assert state.push is not None  # every plan has a push
    state.drop_features()  # the page keeps its own
    opened = open_run(str(state.job.folder), data=None, changes=(), device=torch.device("cpu"))
    features = RunFeatures.of(opened, state.inputs).push.of
    progress = progress_in_turn()
    write_prototypes(state.job.folder, opened.model, splits, state.push, features=features, progress=progress)
    if not with_report:
        print(f"report: none, as --no-report asks; next: protokern report {shlex.quote(str(folder))}", flush=True)
        return
    page, report = write_page(opened, splits, inputs=state.inputs, all_frames=False, progress=progress)
    for line in marked(report.warnings):
        if line not in marked(splits.warnings or ()):  # those were logged when the training began
            append_record(state.job.log_path, Notice(text=line))  # a resumed run removes the line and logs it again
            print(line)
    print("\n".join(closing_lines(report, page, folder)), flush=True)
