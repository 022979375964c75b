"""Tiny made-up folders in the layouts of published data sets: green objects on red, and what is where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

RED, GREEN = (255, 0, 0), (0, 255, 0)
LANDSCAPE, PORTRAIT = (40, 24), (24, 40)  # columns, rows
OBJECT = (6, 4, 18, 20)  # x0, y0, x1, y1, half open
CLASSES = ("gull", "owl")


def paint(path: Path, number: int, orientation: int = 1) -> None:
    """A photograph with the object; every second one is portrait, and blue dots make all different."""
    columns, rows = PORTRAIT if number % 2 else LANDSCAPE
    pixels = np.full((rows, columns, 3), RED, dtype=np.uint8)
    pixels[OBJECT[1] : OBJECT[3], OBJECT[0] : OBJECT[2]] = GREEN
    dots = np.random.default_rng(number).integers(0, 2, (rows // 4, 4), dtype=np.uint8).repeat(4, 0) * 255
    pixels[-len(dots) :, -4:, 2] = dots
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=100, subsampling=0, exif=exif)


def mask_of(number: int, background: int, border: int, inside: int) -> Image.Image:
    """The object of `paint`, whose upper row is border."""
    columns, rows = PORTRAIT if number % 2 else LANDSCAPE
    x0, y0, x1, y1 = OBJECT
    mask = np.full((rows, columns), background, dtype=np.uint8)
    mask[y0:y1, x0:x1] = inside
    mask[y0, x0:x1] = border
    return Image.fromarray(mask)


def numbered() -> list[tuple[int, int, str]]:
    """Number, class and split of twelve images: four to train with and two to test in each class."""
    return [(n, (n - 1) // 6, "test" if n % 3 == 0 else "train") for n in range(1, 13)]


def write_cub(root: Path, *, orientation: int = 1) -> Path:
    names = {n: f"00{k + 1}.{CLASSES[k]}/{CLASSES[k]}_{n:04}.jpg" for n, k, _ in numbered()}
    x0, y0, x1, y1 = OBJECT
    lists = {
        "images.txt": [f"{n} {name}" for n, name in names.items()],
        "image_class_labels.txt": [f"{n} {k + 1}" for n, k, _ in numbered()],
        "train_test_split.txt": [f"{n} {int(split == 'train')}" for n, _, split in numbered()],
        "classes.txt": [f"{k + 1} 00{k + 1}.{name}" for k, name in enumerate(CLASSES)],
        "bounding_boxes.txt": [f"{n} {x0}.0 {y0}.0 {x1 - x0}.0 {y1 - y0}.0" for n in names],
        "parts/parts.txt": ["1 back", "2 left eye"],
        "parts/part_locs.txt": [line for n in names for line in (f"{n} 1 {x0 + 3}.0 {y0 + 3}.0 1", f"{n} 2 0.0 0.0 0")],
        "attributes/attributes.txt": ["1 has_wings"],
    }
    for name, lines in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("\n".join(lines) + "\n")
    for n, name in names.items():
        paint(root / "images" / name, n, orientation)
        mask = (root / "segmentations" / name).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        grey = mask_of(n, background=51, border=153, inside=255)
        (grey.convert("LA") if n == 3 else grey).save(mask)
    return root


def write_pets(root: Path, *, orientation: int = 1) -> Path:
    names = {n: f"{'great_gull' if k == 0 else 'Owl'}_{n}" for n, k, _ in numbered()}
    annotations = root / "annotations"
    (annotations / "trimaps").mkdir(parents=True)
    lines = {n: f"{names[n]} {k + 1} 1 {k + 1}" for n, k, _ in numbered()}
    (annotations / "list.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n" + "\n".join(lines.values()) + "\n")
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        own = [lines[n] for n, _, of in numbered() if of == split]
        (annotations / file).write_text("\n".join(own) + "\n")
    for n, name in names.items():
        paint(root / "images" / f"{name}.jpg", n, orientation)
        mask_of(n, background=2, border=3, inside=1).save(annotations / "trimaps" / f"{name}.png")
    return root


def car_rows(split: str) -> list[dict[str, object]]:
    """Entries of the devkit; MATLAB counts pixels from 1, and both corners are in the box."""
    x0, y0, x1, y1 = OBJECT
    box = {"bbox_x1": x0 + 1, "bbox_y1": y0 + 1, "bbox_x2": x1, "bbox_y2": y1}
    return [box | {"class": k + 1, "fname": f"{n:05}.jpg"} for n, k, of in numbered() if of == split]


def write_cars(root: Path, kind: str = "devkit", *, orientation: int = 1) -> Path:
    """`kind`: "devkit", "nested devkit", "one table" or "tables"."""
    names = np.array([f"{name} 2012" for name in CLASSES], dtype=object)
    if kind == "tables":
        return _write_car_tables(root, orientation)
    if kind == "one table":
        rows = [
            {"relative_im_path": f"car_ims/{n:06}.jpg", "test": int(of == "test")} | row
            for of in ("train", "test")
            for (n, row) in zip([n for n, _, split in numbered() if split == of], car_rows(of), strict=True)
        ]
        for row in rows:
            paint(root / str(row["relative_im_path"]), int(str(row["fname"])[:5]), orientation)
            del row["fname"]
        savemat(root / "cars_annos.mat", {"annotations": struct(rows), "class_names": names})
        return root
    inner = kind == "nested devkit"
    devkit = root / ("car_devkit/devkit" if inner else "devkit")
    devkit.mkdir(parents=True)
    savemat(devkit / "cars_meta.mat", {"class_names": names})
    savemat(devkit / "cars_train_annos.mat", {"annotations": struct(car_rows("train"))})
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": struct(car_rows("test"))})
    for n, _, split in numbered():
        folder = root / f"cars_{split}"
        paint((folder / folder.name if inner else folder) / f"{n:05}.jpg", n, orientation)
    return root


def _write_car_tables(root: Path, orientation: int) -> Path:
    for split in ("train", "test"):
        rows = [
            [row["fname"], *(row[f"bbox_{side}"] for side in ("x1", "y1", "x2", "y2")), row["class"]]
            for row in car_rows(split)
        ]
        root.mkdir(exist_ok=True)
        (root / f"anno_{split}.csv").write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    (root / "names.csv").write_text("\n".join(f"{name} 2012" for name in CLASSES) + "\n")
    for n, k, split in numbered():
        paint(root / "car_data/car_data" / split / f"{CLASSES[k]} 2012" / f"{n:05}.jpg", n, orientation)
    return root


def struct(rows: list[dict[str, object]]) -> np.ndarray:
    """Entries as MATLAB stores them."""
    found = np.zeros((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for index, row in enumerate(rows):
        for name, value in row.items():
            found[name][0, index] = value
    return found
