"""The card of a model: what it was trained on, how good it is, how far its explanations can be trusted, licences."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protokern.interop.export.source import ExportSource
from protokern.metrics.files import read_measures
from protokern.report.closing import say_accuracy, say_share
from protokern.results.measures import Estimate
from protokern.results.prototypes import Prototype
from protokern.results.scores import ClassScore, Scores
from protokern.runs.evaluation import FORMAT as EVALUATION
from protokern.runs.evaluation import TABLE as EVALUATION_FILE
from protokern.runs.summary import FORMAT as SUMMARY
from protokern.runs.summary import SUMMARY_FILE
from protokern.storage.files import read_table
from protokern.storage.names import one_line

SHEET = "prototypes.png"
_MOST = 42  # prototypes on the sheet, a page of it


def sheet_cards(source: ExportSource) -> list[Prototype]:
    """The prototypes of the sheet: those with pictures, evenly chosen if there are many."""
    shown = [card for card in source.prototypes if card.picture is not None]
    count = min(_MOST, len(shown))
    return [shown[index * len(shown) // count] for index in range(count)]


def write_card(source: ExportSource) -> str:
    """The text of `README.md`, with the fields that hubs read at its start."""
    evaluation = _evaluation(source)
    parts = [
        _fields(source, evaluation),
        f"# {_plain(source.name)}",
        _about(source),
        "## Data",
        *_data(source),
        "## Accuracy",
        _accuracy(source, evaluation),
        "## Can the explanations be trusted?",
        "\n".join(_measures(source)),
        "## Prototypes",
        _prototypes(source),
        "## Use",
        _USE,
        "## Licences",
        _licences(source),
    ]
    return "\n\n".join(parts) + "\n"


_USE = """\
```python
from protokern.interop import from_pretrained

model, config, classes = from_pretrained("FOLDER")  # or owner/name
```

Images are in [0, 1] and are normalised inside the model; `config["data"]` says how large they were in training."""


def _fields(source: ExportSource, evaluation: dict[str, Any] | None) -> str:
    lines = [
        "---",
        "library_name: protokern",
        "pipeline_tag: image-classification",
        f"license: {json.dumps(source.license or 'unknown')}",
        "tags:",
        "- prototypical-part-network",
        "- interpretability",
        f"- {source.model_name}",
    ]
    if evaluation is not None:
        lines += [
            "model-index:",
            f"- name: {json.dumps(_plain(source.name))}",
            "  results:",
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            f"      name: {json.dumps(_data_name(source))}",
            f"      type: {json.dumps(_data_name(source))}",
            f"      split: {evaluation['split']}",
            "    metrics:",
            "    - type: accuracy",
            f"      value: {evaluation['accuracy']:.6f}",
        ]
    return "\n".join([*lines, "---"])


def _about(source: ExportSource) -> str:
    model, settings = source.model, source.settings["model"]
    return (
        f"A {type(model).__name__} on {settings['backbone']} with {model.num_prototypes} prototypes for "
        f"{len(source.classes)} classes, trained with protokern. It decides by parts of training images that parts of "
        "an image look like, and can show both."
    )


def _data(source: ExportSource) -> Iterator[str]:
    height, width = source.image_size
    names = ", ".join(_plain(name) for name in source.classes[:50])
    more = f" and {len(source.classes) - 50} more" if len(source.classes) > 50 else ""
    yield f"{_data_name(source)}, images of {height} x {width} pixels. Classes: {names}{more}."
    data = source.settings["data"]
    seed = source.settings.get("train", {}).get("seed")
    yield (
        f"Validation images: {data.get('val_fraction', 0):.0%} of those for training where the data have none of their "
        f"own; seed {seed}. Test images chose nothing."
    )


def _accuracy(source: ExportSource, evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return "Not known for these weights: `protokern evaluate RUN` measures it, and then the export tells it."
    if "classes" not in evaluation:
        images = evaluation["images"]
        return f"{say_share(round(evaluation['accuracy'] * images), images)}, at the end of the training."
    rows = [ClassScore(row["images"], row["answers"], row["correct"]) for row in evaluation["classes"]]
    sentence = say_accuracy(Scores(tuple(rows))).removeprefix("accuracy: ")
    return sentence.replace("test images", f"{evaluation['split']} images") + "."


def _measures(source: ExportSource) -> Iterator[str]:
    stored = None if source.folder is None else read_measures(source.folder)
    if stored is None or not stored.is_of(source.model):
        yield "Not measured for these weights: `protokern metrics RUN` does it, and then the export tells it."
        return
    yield f"Measured on {stored.split} images; the intervals cover other images, not other trainings."
    yield ""
    yield "| measure | number | value | 95 % interval |"
    yield "| --- | --- | ---: | --- |"
    for result in stored.results:
        for name, estimate in result.estimates.items():
            if result.left_out is None and not math.isnan(estimate.value):
                interval = "" if estimate.low is None else f"{_number(estimate, estimate.low)} to "
                interval += "" if estimate.high is None else _number(estimate, estimate.high)
                yield f"| {result.name} | {name} | {_number(estimate, estimate.value)} | {interval} |"


def _number(estimate: Estimate, value: float) -> str:
    return f"{value:.1%}" if estimate.unit == "share" else f"{value:.3g}"


def _prototypes(source: ExportSource) -> str:
    if sheet_cards(source):
        return f"![Prototypes, each a patch of a training image]({SHEET})"
    return "There are no pictures of the prototypes."


def _licences(source: ExportSource) -> str:
    return (
        f"- Weights: {_plain(source.license) or 'not stated'}.\n"
        "- Photographs, of which pictures of prototypes are copies: that of the data.\n"
        "- protokern: MIT."
    )


def _evaluation(source: ExportSource) -> dict[str, Any] | None:
    """What `protokern evaluate` found for these weights, else what their training did; None: nothing."""
    if source.folder is None:
        return None
    path = source.folder / EVALUATION_FILE
    if path.exists():
        table = read_table(path, EVALUATION)
        is_whole = {"checkpoint", "split", "accuracy", "classes"} <= table.keys() and table["classes"]
        if is_whole and table["checkpoint"] == source.checkpoint:
            return table
    return _at_the_end(source.folder / SUMMARY_FILE, source.checkpoint)


def _at_the_end(path: Path, checkpoint: str) -> dict[str, Any] | None:
    """The accuracy with which the training ended, if it ended with this checkpoint and had test images."""
    if not path.exists():
        return None
    summary = read_table(path, SUMMARY)
    last = list(summary["stages"])[-1].removeprefix("after_")
    images = summary["images"]["test"]
    if checkpoint != f"{last}-{summary['epoch']}" or not images:
        return None
    return {"split": "test", "accuracy": summary["accuracy"], "images": images}


def _data_name(source: ExportSource) -> str:
    path = str(source.settings["data"].get("path", ""))
    return _plain(Path(path).name) if path else "synthetic birds"


def _plain(text: str) -> str:
    """A name in one line, without signs that Markdown or HTML would take for their own."""
    return one_line(text).translate({ord(sign): f"&#{ord(sign)};" for sign in "<>|`[]*_"})
