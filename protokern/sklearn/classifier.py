"""The recipe `quick` as an estimator: a head of prototypes on the features of a frozen backbone."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from protokern.config import RunConfig, load_config
from protokern.features import FeatureStore
from protokern.inputs.held import HeldSplits, Maps, held_images
from protokern.models.base import PrototypeModel
from protokern.models.build import build_model
from protokern.models.registry import MODELS
from protokern.nets import Net
from protokern.nets.net import Reading
from protokern.nn import evaluating
from protokern.recipes.sizes import SIZED, sizes_for
from protokern.runs.data import ReadOptions
from protokern.runs.open import choose_device
from protokern.runs.progress import set_seed
from protokern.sklearn.inputs import are_images, maps_of_rows, run_backbone
from protokern.train.held import train_on_maps

_BATCH = 64
_SIZED_HERE = {
    "prototypes_per_class": ("model", "prototypes_per_class"),
    "epochs": ("train", "live_epochs"),
    "batch_size": ("train", "batch_size"),
    "validation_fraction": ("data", "val_fraction"),
}


class PrototypeClassifier(ClassifierMixin, BaseEstimator):
    """A classifier whose prototypes are patches of its training rows, trained in seconds on frozen features.

    X is one of

    - images: a list of paths or pictures of Pillow, or an array (N, Y, X, 3) or (N, Y, X, 1) of uint8. They go through
      the frozen backbone once in every `fit` and every `predict`; `compute_maps` does it ahead of several;
    - maps of a backbone: an array (N, C, H, W) of floats, or a `protokern.features.FeatureStore`;
    - other features: an array (N, D), of which each row is a single patch.

    The settings are those of the recipe `quick`, whose sizes follow the number of rows and classes.

    Args:
        prototypes_per_class: "auto": as the recipe has it.
        epochs: of training; "auto": as the recipe has it.
        batch_size: rows in a step; "auto": as the recipe has it.
        validation_fraction: share of the rows of each class that are held out to choose weights by, in (0, 1); "auto":
            as the recipe has it. If no class has a row to spare, the training rows serve.
        prototype_dim: channels of the prototypes.
        backbone: of images: a name, with its ImageNet weights.
        image_size: of images: pixels, one number or (rows, columns).
        settings: other settings of a run, such as "train.add_on_lr=1e-3".
        device: where the net is trained, such as "cuda"; "auto": a GPU if there is one.
        random_state: an int, a `RandomState` or None, as everywhere in scikit-learn.

    Attributes:
        classes_: (K,) the labels.
        n_features_in_: D or C; not set for images and stores.
        model_: the trained net, in evaluation mode.
        prototype_rows_: (P,) the row of X that each prototype is a patch of; -1: of none.
        prototype_patches_: (P,) which patch, row * columns + column.
    """

    def __init__(
        self,
        *,
        prototypes_per_class: int | str = "auto",
        epochs: int | str = "auto",
        batch_size: int | str = "auto",
        validation_fraction: float | str = "auto",
        prototype_dim: int = 512,
        backbone: str = "efficientnet_lite0",
        image_size: int | tuple[int, int] = 224,
        settings: Sequence[str] = (),
        device: str = "cpu",
        random_state: Any = 0,
    ) -> None:
        self.prototypes_per_class = prototypes_per_class
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.prototype_dim = prototype_dim
        self.backbone = backbone
        self.image_size = image_size
        self.settings = settings
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Train on rows and their labels, (N,).

        Raises:
            ValueError: X or y cannot be used, or a setting is out of range.
            DataError: an image cannot be read.
            TrainingError: the training failed, for instance because a class has too few patches.
        """
        self._is_of_images = are_images(X)
        maps, targets = self._check_rows(X, y)
        check_classification_targets(targets)
        self.classes_, labels = np.unique(targets, return_inverse=True)
        device = choose_device(self.device)
        with _kept_random_states():
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            config = self._configure(len(labels), seed)
            set_seed(seed, 0)
            if maps is None:
                model = build_model(config.model, len(self.classes_), self.image_size).to(device)
                maps = run_backbone(model.backbone, X, self.image_size, device)
            else:
                model = _head_for(maps, config, len(self.classes_)).to(device)
            splits, trained_on = _split(maps, labels, config.data.val_fraction, seed)
            names = tuple(map(str, range(len(self.classes_))))
            backbone, model.backbone = model.backbone, nn.Identity()  # checkpoints do without it
            push = train_on_maps(model, splits, names, config)
        # In float64, so that a row gets the same numbers whatever rows are beside it.
        self._head = copy.deepcopy(model).double()
        model.backbone = backbone
        self.model_ = model.eval()
        if push is not None:
            self.prototype_rows_ = np.where(push.image.numpy() < 0, -1, trained_on[push.image.numpy()])
            self.prototype_patches_ = push.patch.numpy()
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of every row, (N,)."""
        scores = self.decision_scores(X)
        answers: np.ndarray = self.classes_[scores.argmax(axis=1)]
        return answers

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of every class for every row, (N, K), float64."""
        scores = self.decision_scores(X)
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
        return shares

    def decision_scores(self, X: Any) -> np.ndarray:
        """The logits, which are sums of points, (N, K), float64."""
        check_is_fitted(self)
        if are_images(X) != self._is_of_images:
            wanted, got = ("images", "features") if self._is_of_images else ("features", "images")
            raise ValueError(f"X: must be {wanted}, as in fit; got {got}.")
        maps, _ = self._check_rows(X, None)
        if maps is None:
            maps = run_backbone(self.model_.backbone, X, self.image_size, self.model_.device)
        parts = []
        with evaluating(self._head):
            for start in range(0, len(maps), _BATCH):
                batch = maps.read(range(start, min(start + _BATCH, len(maps))), torch.float64)
                parts.append(self._head(batch.to(self._head.device), given="maps").logits.cpu())
        scores: np.ndarray = torch.cat(parts).numpy()
        return scores

    @property
    def net_(self) -> Net:
        """The net with its class names, to explain images with; only if it was trained on images."""
        check_is_fitted(self)
        if not self._is_of_images:
            raise AttributeError("net_: is there only if the classifier was fitted on images; got features.")
        names = [str(name) for name in self.classes_]
        return Net(self.model_, names, Reading(size=self.image_size, options=ReadOptions()), name="PrototypeClassifier")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        return tags

    def _check_rows(self, X: Any, y: Any) -> tuple[Maps | None, Any]:
        """The maps of X, None for images, which are read later; and y, checked, if it is given."""
        is_new = y is not None
        if isinstance(X, FeatureStore) or are_images(X):
            if is_new:
                y = np.asarray(y)
                if y.ndim != 1 or len(y) != len(X):
                    raise ValueError(f"y: must be one label for each of {len(X)} rows; got shape {y.shape}.")
            return (X if isinstance(X, FeatureStore) else None), y
        checked = validate_data(
            self,
            X,
            y if is_new else "no_validation",
            reset=is_new,
            allow_nd=True,
            dtype=[np.float64, np.float32, np.float16],
        )
        rows, targets = checked if is_new else (checked, None)
        return maps_of_rows(rows), targets

    def _configure(self, rows: int, seed: int) -> RunConfig:
        sizes = sizes_for(rows, len(self.classes_))
        for name, (table, key) in _SIZED_HERE.items():
            if (value := getattr(self, name)) != "auto":
                sizes[table][key] = value
        if self.prototypes_per_class != "auto":
            sizes["model"]["correct_class_weight"] = 30.0 / max(1, int(self.prototypes_per_class))
        sizes["model"] |= {"prototype_dim": self.prototype_dim, "backbone": self.backbone}
        sizes["train"]["seed"] = seed
        config = load_config(None, tuple(self.settings), SIZED, sizes)
        return replace(config, data=replace(config.data, image_size=self.image_size))


def _head_for(maps: Maps, config: RunConfig, num_classes: int) -> PrototypeModel:
    """A model whose images are maps."""
    shape = maps.read([0]).shape[1:]
    model: PrototypeModel = MODELS[config.model.name](
        nn.Identity(), num_classes, config.model, image_size=(shape[1], shape[2]), in_channels=shape[0]
    )
    return model


def _split(maps: Maps, labels: np.ndarray, fraction: float, seed: int) -> tuple[HeldSplits, np.ndarray]:
    """Rows to train on and rows held out of each class, by `seed`; and the numbers of the former."""
    rng = np.random.default_rng(seed)
    held: list[int] = []
    for k in range(int(labels.max()) + 1):
        own = rng.permutation(np.flatnonzero(labels == k))
        held += own[: min(round(fraction * len(own)), len(own) - 1)].tolist()
    if not held:  # the fraction of every class rounds to nothing: one row each, of the classes that have several
        held = [int(own[0]) for k in np.unique(labels) if len(own := rng.permutation(np.flatnonzero(labels == k))) > 1]
    trained_on = np.setdiff1d(np.arange(len(labels)), held)
    chosen = np.sort(held) if held else trained_on
    train, val = (held_images(maps, one.tolist(), labels[one].tolist()) for one in (trained_on, chosen))
    return HeldSplits(train, val), trained_on


@contextmanager
def _kept_random_states() -> Iterator[None]:
    """The generators of the program are after the block as they were before it."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
