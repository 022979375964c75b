"""A net that learned a sticker instead of a bird, and three edits that make it answer as one that saw no sticker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protokern.edits.bench import Bench, EditedNet
from protokern.edits.history import settle
from protokern.edits.records import Replace
from protokern.evaluate import Evaluation, evaluate
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating
from protokern.runs.data import open_data
from protokern.runs.features import find_inputs, split_features
from protokern.runs.open import open_run
from tests.app.stickers import (
    SHARE,
    Stickered,
    on_sticker,
    paste_sticker,
    train_on,
    write_birds,
    write_stickered_birds,
    write_stickered_copy,
)


class Opened:
    """A run on the bench, and the accuracy of any of its nets on the test images, which have no sticker."""

    def __init__(self, folder: Path) -> None:
        run = open_run(folder)
        splits = open_data(run.config, run=folder)
        inputs = find_inputs(run, splits)
        self.run, self.bench = run, Bench(run, inputs)
        self.names = [splits.push.sample_name(index) for index in range(len(splits.push))]
        (self._test,) = split_features(run, inputs.test)

    def test(self, model: PrototypeModel) -> Evaluation:
        with evaluating(model):
            return evaluate(model.head, self._test, model.device, num_classes=len(self.run.classes))


def replace_by_wings(opened: Opened, birds: Stickered) -> tuple[list[Replace], EditedNet]:
    """What a person does who sees the prototypes: at most three that show the sticker become wings of other birds."""
    push = opened.run.push
    assert push is not None
    rows, columns = push.grid
    wings = iter((name, point) for name, point in birds.wings.items() if name in opened.names)
    edits = []
    for number in on_sticker(push, opened.names, birds.boxes)[:3]:
        name, (x, y) = next(wings)
        edits.append(Replace(prototype=number, image=name, patch=(int(y * rows), int(x * columns))))
    return edits, opened.bench.apply(settle(edits))


@pytest.mark.slow
def test_three_edits_mend_a_net_that_learned_the_sticker(tmp_path: Path) -> None:
    clean = write_birds(tmp_path / "birds")
    stickered = write_stickered_birds(tmp_path / "stickered", clean)
    without = Opened(train_on(clean.folder, tmp_path / "run-without"))
    fooled = Opened(train_on(stickered.folder, tmp_path / "run-fooled"))
    wanted, before = without.test(without.run.model), fooled.test(fooled.run.model)
    assert before.accuracy < wanted.accuracy - 0.1
    assert before.confusion is not None
    label = fooled.run.classes.index(stickered.class_name)
    assert before.confusion[label, label] < 0.5 * before.confusion[label].sum()

    edits, mended = replace_by_wings(fooled, stickered)
    assert 1 <= len(edits) <= 3
    assert all(label in mended.prototypes[edit.prototype].classes for edit in edits)
    assert mended.val_before.accuracy > 0.9  # so that no person notices by the validation images
    assert fooled.test(mended.model).accuracy >= wanted.accuracy - 0.02


def test_a_sticker_lies_in_its_box(tmp_path: Path) -> None:
    grey = Image.new("RGB", (120, 80), (90, 90, 90))
    generator = np.random.default_rng(0)
    places = set()
    for _ in range(5):
        picture, (left, top, right, bottom) = paste_sticker(grey, generator)
        changed = np.argwhere((np.asarray(picture) != 90).any(axis=2))
        (y0, x0), (y1, x1) = changed.min(axis=0), changed.max(axis=0) + 1
        assert (x0, y0, x1, y1) == pytest.approx((left * 120, top * 80, right * 120, bottom * 80), abs=1.5)
        assert max(right, bottom) < 0.5
        assert (right - left) * 120 == pytest.approx(SHARE * 80)
        places.add((left, top))
    assert len(places) == 5
    assert np.asarray(grey).min() == 90


def test_only_training_images_of_the_class_get_a_sticker(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    for name in ("train/a/1", "train/b/1", "test/a/1", "test/b/1"):
        (source / name).parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), (90, 90, 90)).save(source / f"{name}.png")
    written = write_stickered_copy(source, copy, "a")
    assert [*written.boxes] == ["train/a/1.png"]
    for path in source.rglob("*.png"):
        relative = path.relative_to(source)
        is_same = np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(copy / relative)))
        assert is_same == (relative.as_posix() != "train/a/1.png")
