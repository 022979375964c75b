"""What a user should know about data before trusting results, in sentences: what, how many, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from protokern.data.confounds import Confound, find_confounds
from protokern.data.copies import Copy, SmallPictures, find_class_copies, find_copies, make_small
from protokern.data.dataset import ImageDataset, Splits

MOST_IMAGES = 20_000
FEW = 10  # images of a class
_RARE = 10  # ratio of the images of the largest class to those of a rare one
_LISTED = 3
_REMEDIES = {
    "size": "Bring all images to one size before training",
    "shape": "Crop all images to one shape",
    "mode": "Convert all images to one mode, such as RGB",
    "format": "Save all images in one format",
}


_Pictures = Iterable[np.ndarray | None]


class Progress(Protocol):
    """Passes pictures on one by one, and shows how many of `total` are done."""

    def __call__(self, things: _Pictures, title: str, total: int, /) -> _Pictures: ...


def _show_nothing(things: _Pictures, title: str, total: int, /) -> _Pictures:
    return things


def data_warnings(
    splits: Splits, *, most_images: int = MOST_IMAGES, progress: Progress = _show_nothing
) -> tuple[str, ...]:
    """Problems of data that can be read; every image is read once.

    These are classes with few images; test or validation images that are training images; images of one split that are
    in two classes; and a size, shape, mode or file format that reveals a class. Painted images are not checked.

    Args:
        splits: the data of a run.
        most_images: limit over all splits together; among more images, copies and file properties are not checked,
            which would take minutes.
        progress: shows the progress over the images of a split.

    Returns:
        Sentences, the most serious first; empty if nothing was found.
    """
    counts = _count_warnings(splits)
    if not len(splits.test) or splits.test.content(0) is None:
        return counts
    total = sum(map(len, (splits.push, splits.val, splits.test)))
    if total > most_images:
        unsaid = (
            f"{total} images are more than the {most_images} among which copies are looked for: whether test images "
            "are training images, or a class can be told by the size of its files, is not known."
        )
        return (*counts, unsaid)
    return (*_copy_warnings(splits, progress), *_confound_warnings(splits), *counts)


def _count_warnings(splits: Splits) -> tuple[str, ...]:
    found = []
    for images, name, remedy in (
        (
            splits.push,
            "training",
            "Add images, or leave the class out: so few may show what is not typical of the class",
        ),
        (splits.test, "test", "One answer moves the recall of such a class by ten points or more: add test images"),
    ):
        counts = np.bincount(images.labels, minlength=len(splits.classes))
        few = [label for label in np.argsort(counts, kind="stable").tolist() if counts[label] < FEW]
        if few:
            found.append(
                f"{len(few)} of {len(counts)} classes {_have(few)} fewer than {FEW} {name} images: "
                f"{_listed([f'{splits.classes[label]} ({counts[label]})' for label in few])}. {remedy}."
            )
    counts = np.bincount(splits.push.labels, minlength=len(splits.classes))
    most = int(counts.argmax())
    rare = [label for label in np.argsort(counts, kind="stable").tolist() if _RARE * counts[label] <= counts[most]]
    if rare:
        found.append(
            f"{len(rare)} of {len(counts)} classes {_have(rare)} at most a tenth of the training images of "
            f"{splits.classes[most]} ({counts[most]}): "
            f"{_listed([f'{splits.classes[label]} ({counts[label]})' for label in rare])}. "
            "Such a class hardly changes the accuracy: look at its recall, and add images of it."
        )
    return tuple(found)


def _copy_warnings(splits: Splits, progress: Progress) -> list[str]:
    def reduce(images: ImageDataset, name: str) -> SmallPictures:
        return make_small(images, lambda found: progress(found, f"copies among the {name} images", len(images)))

    train = reduce(splits.push, "training")
    val, test = reduce(splits.val, "validation"), reduce(splits.test, "test")
    pairs = (
        (splits.test, test, splits.push, train, "test", "training", "The test accuracy is too optimistic"),
        (
            splits.test,
            test,
            splits.val,
            val,
            "test",
            "validation",
            "The test images influenced the choice of weights",
        ),
        (
            splits.val,
            val,
            splits.push,
            train,
            "validation",
            "training",
            "The validation images then reward what was memorised",
        ),
    )
    found = []
    for images, small, others, small_others, name, other, why in pairs:
        copies = find_copies(images, small, others, small_others)
        if copies:
            found.append(_say_copies(copies, images, others, name, other, why))
    for images, small, name in (
        (splits.push, train, "training"),
        (splits.val, val, "validation"),
        (splits.test, test, "test"),
    ):
        found += _class_copy_warnings(images, small, name)
    return found


def _class_copy_warnings(images: ImageDataset, small: SmallPictures, name: str) -> list[str]:
    copies = find_class_copies(images, small)
    if not copies:
        return []
    kinds = _kinds_of(copies)
    examples = [f"{images.sample_name(copy.image)} is {images.sample_name(copy.of)}" for copy in copies]
    return [
        f"{len(copies)} of {len(images)} {name} images {'is' if len(copies) == 1 else 'are'} in another class too "
        f"({kinds}): {_listed(examples)}. At most one of the two classes is right: leave each image in one class."
    ]


def _kinds_of(copies: Sequence[Copy]) -> str:
    same = sum(copy.has_same_bytes for copy in copies)
    kinds = [f"{same} by their bytes"] if same else []
    kinds += [f"{len(copies) - same} nearly identical, as if saved again or resized"] if same < len(copies) else []
    return ", ".join(kinds)


def _say_copies(
    copies: Sequence[Copy], images: ImageDataset, others: ImageDataset, name: str, other: str, why: str
) -> str:
    examples = [f"{images.sample_name(copy.image)} is {others.sample_name(copy.of)}" for copy in copies]
    contrary = sum(images.labels[copy.image] != others.labels[copy.of] for copy in copies)
    also = f" {contrary} of them {'is' if contrary == 1 else 'are'} there in another class." if contrary else ""
    return (
        f"{len(copies)} of {len(images)} {name} images {'is a' if len(copies) == 1 else 'are'} {other} "
        f"image{'' if len(copies) == 1 else 's'} ({_kinds_of(copies)}): {_listed(examples)}.{also} {why}: remove them "
        "from one of the two."
    )


def _confound_warnings(splits: Splits) -> list[str]:
    headers = [splits.push.header(index) for index in range(len(splits.push))]
    found = find_confounds(headers, splits.push.labels, len(splits.classes))
    return [
        _say_confound(kind, [one for one in found if one.kind == kind], splits.classes)
        for kind in _REMEDIES
        if any(one.kind == kind for one in found)
    ]


def _say_confound(kind: str, found: Sequence[Confound], classes: Sequence[str]) -> str:
    told = _listed([f"{classes[one.label]} ({one.value})" for one in found])
    what = {"format": "format of the file"}.get(kind, kind)
    return (
        f"{len(found)} of {len(classes)} classes can be told by the {what} of {'its' if len(found) == 1 else 'their'} "
        f"training images alone: {told}. The net may learn that instead of what the images show. {_REMEDIES[kind]}."
    )


def _have(some: Sequence[int]) -> str:
    return "has" if len(some) == 1 else "have"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
