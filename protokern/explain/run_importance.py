"""How much visible properties matter to the prototypes of a run: over its data, or in single photographs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from protokern.explain.importance import REPLICATES, stream_importance, summarise_importance
from protokern.explain.importance_statistics import compare_importance
from protokern.explain.modifications import Modification
from protokern.inputs.loaders import ShownImages
from protokern.models.build import image_format
from protokern.nn import evaluating
from protokern.report.text import importance_lines, local_lines
from protokern.results.importance import GlobalImportance, ImportanceBatch
from protokern.results.progress import Progress, show_nothing
from protokern.runs.data import RunData, prepare_colours, read_pictures
from protokern.runs.importance import FOLDER, JSON, SPLITS, TABLES, LocalTable, open_local_table, write_importance
from protokern.runs.open import OpenRun, check_pushed
from protokern.runs.outputs import check_out, is_inside
from protokern.storage.outputs import Outputs, claim_outputs

SHOWN_PROTOTYPES = 4
_IMAGES = "images.csv"
_SEED = 0


class Written(NamedTuple):
    """The results as lines of text, and the files that hold them."""

    lines: list[str]
    paths: list[Path]


def claim_importance(
    run: OpenRun, out: str | None, *, images: Sequence[Path] = (), with_local: bool = False
) -> Outputs:
    """Claim the folder for the files, in which no file of others will be replaced.

    Args:
        run: the run that is measured.
        out: the folder; None: that of the run.
        images: photographs that are measured instead of the data; none: the data of the run.
        with_local: whether the scores of every single image are written too.
    """
    folder = run.folder / FOLDER if out is None else Path(out)
    if out is not None:
        check_out(folder, run, own=FOLDER)
    names = [_IMAGES] if images else [*TABLES, *(_local_path(folder, split).name for split in SPLITS if with_local)]
    # The run keeps this folder for this command: files without a listing are from a version that wrote none.
    is_own = is_inside(folder, run.folder / FOLDER)
    argument = str(folder) if out is None else "--out"
    return claim_outputs(folder, names, by="importance", argument=argument, inputs=images, trusts_unlisted=is_own)


def measure_run(
    run: OpenRun,
    data: RunData,
    modifications: dict[str, Modification],
    outputs: Outputs,
    *,
    with_local: bool = False,
    progress: Progress = show_nothing,
) -> Written:
    """Measure the training and the test images; write the scores of the prototypes.

    Args:
        run: a run after a push.
        data: of the run.
        modifications: by name.
        outputs: from `claim_importance`.
        with_local: write the scores of every single image too.
        progress: shows the progress.
    """
    push = check_pushed(run)
    with outputs.writing(last=JSON) as stage:
        train, test = (
            _measure_split(run, modifications, split, dataset, stage, with_local=with_local, progress=progress)
            for split, dataset in zip(SPLITS, (data.push, data.test), strict=True)
        )
        comparisons = compare_importance(train, test)
        made_by = {
            "checkpoint": run.checkpoint.name,
            "image_size": data.push.image_size,
            "bootstrap": {"replicates": REPLICATES, "seed": _SEED, "interval": 0.95},
        }
        paths = write_importance(stage, train, test, comparisons, push, made_by)
        paths += [_local_path(stage, split) for split in SPLITS if with_local]
        # Old tables may be of other prototypes, which the JSON file that is read again must not describe.
        for name in (JSON, *(_local_path(stage, split).name for split in SPLITS)):
            outputs.remove(name)
    return Written(importance_lines(train, test, comparisons), [outputs.folder / path.name for path in paths])


def _measure_split(
    run: OpenRun,
    modifications: dict[str, Modification],
    split: str,
    dataset: ShownImages,
    folder: Path,
    *,
    with_local: bool,
    progress: Progress,
) -> GlobalImportance:
    images = progress(_pictures(dataset), f"{split} images", len(dataset))
    batches = _stream(run, modifications, images)
    with ExitStack() as stack:
        if with_local:
            table = stack.enter_context(open_local_table(_local_path(folder, split)))
            batches = _write_rows(batches, table, dataset)
        return summarise_importance(batches, replicates=REPLICATES, seed=_SEED)


def _stream(
    run: OpenRun, modifications: dict[str, Modification], images: Iterable[np.ndarray]
) -> Iterator[ImportanceBatch]:
    train = run.config.train
    return stream_importance(
        run.model,
        images,
        modifications,
        prepare=prepare_colours(run.config),
        batch_size=train.batch_size,
        memory_format=image_format(train.channels_last),
    )


def _pictures(dataset: ShownImages) -> Iterator[np.ndarray]:
    for index in range(len(dataset)):
        yield dataset.display_image(index)


def _write_rows(
    batches: Iterable[ImportanceBatch], table: LocalTable, dataset: ShownImages
) -> Iterator[ImportanceBatch]:
    for batch in batches:
        positions = range(batch.first, batch.first + len(batch.delta))
        table.add(batch, [dataset.sample_name(index) for index in positions])
        yield batch


def _local_path(folder: Path, split: str) -> Path:
    return folder / f"{split}-local.csv"


def measure_photographs(
    run: OpenRun, modifications: dict[str, Modification], paths: Sequence[Path], outputs: Outputs
) -> Written:
    """Measure single photographs, which are all read before the first is measured; arguments as in `measure_run`."""
    pictures = read_pictures(run.config, paths)
    lines: list[str] = []
    with outputs.writing() as stage, open_local_table(stage / _IMAGES) as table:
        for batch in _stream(run, modifications, iter(pictures)):
            positions = range(batch.first, batch.first + len(batch.delta))
            table.add(batch, [str(paths[position]) for position in positions])  # two photographs may have the same name
            for index, position in enumerate(positions):
                label, prototypes = _strongest(run, pictures[position])
                lines += local_lines(f"{paths[position].name}: {run.classes[label]}", prototypes, batch, index)
    return Written(lines, [outputs.folder / _IMAGES])


def _strongest(run: OpenRun, picture: np.ndarray) -> tuple[int, list[int]]:
    """The predicted class of a picture, and the prototypes with the most points for it."""
    model = run.model
    pixels = torch.from_numpy(picture[np.newaxis].copy()).permute(0, 3, 1, 2)
    scaled = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    image = scaled.to(model.device, model.dtype)
    prepare = prepare_colours(run.config)
    if prepare is not None:
        image = prepare(image)
    with evaluating(model):
        output = model(image)
        label = int(output.logits[0].argmax())
        points = model.influence(output, label)[0]
    return label, points.argsort(descending=True, stable=True)[:SHOWN_PROTOTYPES].tolist()
