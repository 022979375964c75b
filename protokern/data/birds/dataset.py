"""Synthetic birds as a data set, and the truth about each of its pictures: where the bird and its parts are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protokern.data.augment import Augmentation, find_augmentation
from protokern.data.birds.scene import Scene, paint_scene
from protokern.data.birds.shapes import LABEL_OF, LABELS
from protokern.data.birds.species import DIFFERENCES, variant, with_chance
from protokern.data.colours import from_rgb
from protokern.data.dataset import ImageDataset
from protokern.data.decode import parse_image_size
from protokern.data.regions import BoxRegion, MaskRegion, PartPoint, Region

ANNOTATED_PARTS = LABELS[2:]


@dataclass(frozen=True, slots=True)
class BirdAnnotation:
    """The truth about one picture, in its pixels.

    Attributes:
        keypoints: for each of `ANNOTATED_PARTS`: (y, x, visible); not visible where something is in front.
        masks: for each of `ANNOTATED_PARTS`, and "bird" for the whole bird: (Y, X) bool, at least half covered.
        box: (y0, x0, y1, x1) of the bird, half open.
    """

    keypoints: dict[str, tuple[float, float, bool]]
    masks: dict[str, np.ndarray]
    box: tuple[int, int, int, int]


def annotate(scene: Scene) -> BirdAnnotation:
    """Read the annotation off a painted scene."""
    masks = {part: scene.canvas.coverage(part) >= 0.5 for part in ANNOTATED_PARTS}
    masks["bird"] = scene.canvas.coverage() >= 0.5
    finer, labels = scene.canvas.finer, np.asarray(scene.canvas.labels)
    keypoints = {}
    for part, point in scene.drawing.keypoints.items():
        x, y = scene.pose.place(np.array([point]))[0].tolist()
        seen = labels[min(int(y * finer), labels.shape[0] - 1), min(int(x * finer), labels.shape[1] - 1)]
        keypoints[part] = (y, x, bool(seen == LABEL_OF[part]))
    rows, columns = np.flatnonzero(masks["bird"].any(axis=1)), np.flatnonzero(masks["bird"].any(axis=0))
    box = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    return BirdAnnotation(keypoints, masks, box)


def share_on_bird(masks: Sequence[np.ndarray], patch: Sequence[int], grid: tuple[int, int]) -> float:
    """The share of patches whose centre lies on the bird.

    Args:
        masks: for each patch the mask of the bird in its image, (Y, X) bool.
        patch: flat index row * W' + column of each patch.
        grid: (H', W'), the patch grid that is spread evenly over the image.

    Returns:
        In [0, 1]; NaN without patches.
    """
    hits = []
    for mask, index in zip(masks, patch, strict=True):
        row, column = divmod(int(index), grid[1])
        y, x = int((row + 0.5) * mask.shape[0] / grid[0]), int((column + 0.5) * mask.shape[1] / grid[1])
        hits.append(bool(mask[y, x]))
    return sum(hits) / len(hits) if hits else float("nan")


SPLITS = ("train", "val", "test")
_MIN_SIZE = 16


class SyntheticBirds(ImageDataset):
    """Painted birds: every class is a species, every image another pose in another place.

    Image `i` depends on (seed, split, i) and its size alone and has the same bits on every machine with the same
    Pillow and NumPy. Images are sorted by class, like those of a folder.

    Args:
        split: "train", "val" or "test"; no image is in two of them.
        num_classes: number of classes, [2, 343]; the first ones differ most.
        images_per_class: at least 1.
        image_size: pixels, one number or (rows, columns), at least 16.
        differ_in: how the classes differ: "species", all parts and the plumage; "colour", the hue of the plumage alone,
            for up to 8 classes; "beak", its shape alone, for up to 7. With either of these, the other one is random.
        seed: 0 or more; other seeds give other pictures of the same species.
        augmentation: "none", "protopnet", "crop" or an Augmentation.
        cache: "memory" paints each picture once; "none" at each access.
        channels: of the images: 1 grey, 3 RGB, 2 and 4 with an opacity of 1.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        split: str,
        *,
        num_classes: int = 10,
        images_per_class: int = 100,
        image_size: int | tuple[int, int] = 64,
        differ_in: str = "species",
        seed: int = 0,
        augmentation: str | Augmentation | None = "none",
        cache: str = "memory",
        channels: int = 3,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split: must be one of {', '.join(SPLITS)}; got {split!r}. Choose one of them.")
        if differ_in not in DIFFERENCES:
            raise ValueError(f"differ_in: must be one of {', '.join(DIFFERENCES)}; got {differ_in!r}. Choose one.")
        most = DIFFERENCES[differ_in]
        if not 2 <= num_classes <= most:
            kind = "species" if differ_in == "species" else f"birds that differ in {differ_in} alone"
            raise ValueError(f"num_classes: must be from 2 to {most}; got {num_classes}. There are no more {kind}.")
        if images_per_class < 1:
            raise ValueError(f"images_per_class: must be at least 1; got {images_per_class}. Give a larger number.")
        size = parse_image_size(image_size)
        if min(size) < _MIN_SIZE:
            raise ValueError(f"image_size: must be at least {_MIN_SIZE} pixels; got {size}. Give a larger size.")
        self.species = [variant(differ_in, number) for number in range(num_classes)]
        self.split = split
        self._differ_in = differ_in
        self._images_per_class = images_per_class
        super().__init__(
            labels=[label for label in range(num_classes) for _ in range(images_per_class)],
            classes=[f"{number:03}_{species.name}" for number, species in enumerate(self.species)],
            image_size=size,
            augmentation=find_augmentation(augmentation),
            augmentation_margin=1.0,
            seed=seed,
            cache=cache,
            channels=channels,
        )

    def render(self, index: int, size: tuple[int, int]) -> np.ndarray:
        return from_rgb(self._paint(index, size).pixels, self.channels)

    def sample_name(self, index: int) -> str:
        label, number = divmod(range(len(self))[index], self._images_per_class)
        return f"{self.split}/{self.classes[label]}/{number:04}"

    def source_path(self, index: int) -> Path | None:
        return None

    def transform(self) -> str:
        rows, columns = self.image_size
        words = f"painted at {rows} x {columns} pixels from seed {self.seed}, classes differ in {self._differ_in}"
        return words if self.channels == 3 else f"{words}, {self.channels} channels"

    def annotations(self, index: int) -> BirdAnnotation:
        """Keypoints, masks and box of an image, without augmentation; painted again at each call."""
        return annotate(self._paint(range(len(self))[index], self.image_size))

    def bird_share(self, image: Iterable[int], patch: Iterable[int], grid: tuple[int, int]) -> float:
        """How many patches, as a share in [0, 1], have their centre on the bird.

        Args:
            image: index of each patch's image in this data set; negative for none, which is left out.
            patch: flat index row * W' + column of each patch.
            grid: (H', W'), the patch grid.
        """
        pairs = [(int(i), int(p)) for i, p in zip(image, patch, strict=True) if int(i) >= 0]
        masks = {i: self.annotations(i).masks["bird"] for i in {i for i, _ in pairs}}
        return share_on_bird([masks[i] for i, _ in pairs], [p for _, p in pairs], grid)

    def _paint(self, index: int, size: tuple[int, int]) -> Scene:
        entropy = [self.seed, SPLITS.index(self.split), index]
        # A separate generator, so that the scene is the same whatever the classes differ in.
        species = with_chance(self.species[self.labels[index]], self._differ_in, np.random.default_rng([*entropy, 1]))
        seeds = np.random.SeedSequence(entropy)
        return paint_scene(species, np.random.Generator(np.random.PCG64(seeds)), size)


class BirdTruth:
    """Mask, box and visible parts of every painted bird, in the form that `FolderAnnotations` has."""

    def __init__(self, birds: SyntheticBirds) -> None:
        self._birds = birds

    def regions(self, index: int) -> dict[str, Region]:
        """Where the bird is: "mask" and "box bird"."""
        truth = self._birds.annotations(index)
        y0, x0, y1, x1 = truth.box
        return {
            "mask": MaskRegion(truth.masks["bird"]),
            "box bird": BoxRegion(self._birds.image_size, ((y0, x0, y1, x1),)),
        }

    def parts(self, index: int) -> tuple[PartPoint, ...]:
        """Centres of the parts that nothing hides."""
        rows, columns = self._birds.image_size
        points = self._birds.annotations(index).keypoints.items()
        return tuple(PartPoint(name, y / rows, x / columns) for name, (y, x, is_visible) in points if is_visible)
