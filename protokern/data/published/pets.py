"""Oxford-IIIT Pet: lists of names in `annotations/`, a trimap for every image.

Source: Parkhi et al. 2012, Cats and Dogs, and the README in it: 1 is the pet, 2 the background, 3 the border. The boxes
of the heads (`xmls/`) are not read: they are of the training images alone, and a head is not the pet.
"""

from __future__ import annotations

from pathlib import Path

from protokern.data.class_names import composed
from protokern.data.marks import Annotated, line_error
from protokern.data.masks import TRIMAP, MaskFiles
from protokern.data.published.layout import Listing, PublishedLayout, image_below, listing, read_lines

_SPLITS = {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}
_MASKS = "annotations/trimaps"


def _list_images(root: Path) -> Listing:
    samples: dict[str, list[tuple[Path, int]]] = {}
    names: dict[int, str] = {}
    for split, table in _SPLITS.items():
        samples[split] = []
        for line, (name, number, _) in read_lines(root / table, 3):
            if not number.isdecimal() or "_" not in name:
                raise line_error(root / table, line, f"must have CLASS_NUMBER and a number; got {f'{name} {number}'!r}")
            path = image_below(root / "images", f"{name}.jpg", root / table, line)
            samples[split].append((path, int(number)))
            names.setdefault(int(number), name.rpartition("_")[0])
    return listing(samples, names, dict(_SPLITS))


def _read_annotations(root: Path) -> Annotated:
    masks = None
    if (root / _MASKS).is_dir():
        images = [path for some in _list_images(root).samples.values() for path, _ in some]
        files = {composed(path.relative_to(root).as_posix()): root / _MASKS / f"{path.stem}.png" for path in images}
        masks = MaskFiles({image: mask for image, mask in files.items() if mask.is_file()}, TRIMAP)
    return Annotated(masks=masks, names={"boxes": "boxes.csv", "parts": "parts.csv", "masks": f"{_MASKS}/"})


LAYOUT = PublishedLayout("Oxford-IIIT Pet", ("images", *_SPLITS.values()), _list_images, _read_annotations)
