"""A trained net on stored features, whose prototypes are changed by edits and whose last layer is solved after each."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from protokern.edits.history import Counted
from protokern.edits.net import EditedPrototype, edit_limits, edit_prototypes
from protokern.edits.records import EditError, Limit
from protokern.evaluate import Evaluation
from protokern.inputs.loaders import DataSplits
from protokern.inputs.sources import SplitFeatures
from protokern.models.base import PrototypeModel, vectors_of
from protokern.nn import PrototypeLayer, evaluating
from protokern.push import PushResult
from protokern.runs.features import split_features
from protokern.runs.open import OpenRun, check_pushed
from protokern.solvers.last_layer import LastLayerInputs, SolvedLastLayer, can_be_solved, solve_last_layer
from protokern.solvers.limits import SignLimit
from protokern.solvers.problem import allowed_signs, within_signs

_Key = tuple[int | None, int, int]  # of a vector: the row in the run's net, or image and patch


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """An image that is answered otherwise.

    Attributes:
        image: its position in the split.
        label, before, after: class indices: the right one, and the answers.
    """

    image: int
    label: int
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EditedNet:
    """A net after edits.

    Attributes:
        model: the net, its last layer solved.
        prototypes: of the net, in its order; without those that are forbidden.
        forbidden: those that are.
        push: where the prototypes come from.
        solved: what the solver did; None: nothing differs from the run, and its weights stay.
        val_before, val_after: accuracy and loss on the validation images.
        changed: the validation images with another answer.
        empty_classes: indices of the classes that have no prototype left.
        limits: what prototypes may say about a class, by its index; without those that allow everything.
    """

    model: PrototypeModel
    prototypes: tuple[EditedPrototype, ...]
    forbidden: tuple[EditedPrototype, ...]
    push: PushResult
    solved: SolvedLastLayer | None
    val_before: Evaluation
    val_after: Evaluation
    changed: tuple[Changed, ...]
    empty_classes: tuple[int, ...]
    limits: Mapping[int, Limit]


def check_editable(model: PrototypeModel) -> None:
    """Raise an EditError unless the prototypes of a model can be edited."""
    is_edited = type(model).set_prototypes is not PrototypeModel.set_prototypes
    if not (is_edited and can_be_solved(model.last_layer)):
        raise EditError(
            f"RUN: must be of a model whose prototypes are patches with weights, a ProtoPNet; got a "
            f"{type(model).__name__}. 'protokern prune --drop' removes prototypes of any model."
        )


class Bench:
    """The net of a run and its images, for as many histories of edits as are tried.

    Patches are read from the features, and of the activations only those to new patches are computed; both are kept.
    The backbone runs only over images whose features are not stored, once if they fit into `train.feature_cache_mb`.

    Args:
        run: after a push; its model stays as it is.
        inputs: the stored features of the run's images, or the images, see `find_inputs` of `protokern.runs.features`.
        features: of the training and the validation images, if they were opened already.

    Raises:
        EditError: the model cannot be edited.
        CheckpointError: the prototypes are no patches yet.
    """

    def __init__(
        self, run: OpenRun, inputs: DataSplits, features: tuple[SplitFeatures, SplitFeatures] | None = None
    ) -> None:
        check_editable(run.model)
        self.run, self._push = run, check_pushed(run)
        self.features, self._val_features = (
            split_features(run, inputs.push, inputs.val) if features is None else features
        )
        self._positions = {inputs.push.sample_name(index): index for index in range(len(inputs.push))}
        self._labels = torch.tensor(inputs.push.labels)
        self._columns: dict[_Key, tuple[Tensor, Tensor]] = {}
        self._vectors: dict[_Key, Tensor] = {}
        self._targets: tuple[Tensor, Tensor] | None = None

    def find_image(self, name: str) -> int | None:
        """The position of a training image by its name."""
        return self._positions.get(name)

    def apply(self, edits: Sequence[Counted]) -> EditedNet:
        """The net after some edits.

        Raises:
            EditError: an edit does not fit the net, or no prototype is left.
        """
        model = self.run.model
        owners = [tuple(row.nonzero()[:, 0].tolist()) for row in model.class_identity.cpu() > 0]
        prototypes_after = partial(
            edit_prototypes, owners, class_names=self.run.classes, find_image=self.find_image, grid=self._push.grid
        )
        every, limits = prototypes_after(edits), edit_limits(edits, self.run.classes)
        signs = {k: limit.signs for k, limit in limits.items()}
        kept = [one for one in every if one.forbidden is None]
        if not kept:
            raise EditError("edits: must leave a prototype; they forbid all of them. Keep one.")
        with evaluating(model), torch.no_grad():
            self._prepare([self._key(one) for one in kept])
            edited = self._edited_model(kept, signs)
            train, val = self._inputs_of([self._key(one) for one in kept])
            own = self._inputs_of([(j, 0, 0) for j in range(model.num_prototypes)])[1]
            is_as_trained = kept == prototypes_after(()) and not limits
            config = self.run.config.train
            solved = None if is_as_trained else solve_last_layer(edited, train, val, config, limits=signs)
            val_before, val_after = own.evaluate(model.last_layer), val.evaluate(edited.last_layer)
            answers = (model.last_layer(own.values).argmax(dim=1), edited.last_layer(val.values).argmax(dim=1))
        changed = [
            Changed(image=i, label=label, before=before, after=after)
            for i, (label, before, after) in enumerate(
                zip(val.labels.tolist(), *map(Tensor.tolist, answers), strict=True)
            )
            if before != after
        ]
        return EditedNet(
            model=edited,
            prototypes=tuple(kept),
            forbidden=tuple(one for one in every if one.forbidden is not None),
            push=self._push_of(kept),
            solved=solved,
            val_before=val_before,
            val_after=val_after,
            changed=tuple(changed),
            empty_classes=tuple(sorted({*range(model.num_classes)} - {k for one in kept for k in one.classes})),
            limits=limits,
        )

    def _key(self, one: EditedPrototype) -> _Key:
        if one.place is None:
            return (one.origin, 0, 0)
        return (None, one.place.image, one.place.patch[0] * self._push.grid[1] + one.place.patch[1])

    def _prepare(self, keys: Sequence[_Key]) -> None:
        """Make the vectors of these keys and their activations, as far as they are not there yet."""
        if self._targets is None:
            # Also what the run's own net answers. It comes first, because this pass stores the features: a patch that
            # is read before, from its image alone, has other bits than in its batch, and than in a later edit.
            self._add([(j, 0, 0) for j in range(self.run.model.num_prototypes)])
        new = [key for key in dict.fromkeys(keys) if key not in self._columns]
        if new:
            self._add(new)

    def _add(self, new: Sequence[_Key]) -> None:
        for key in new:
            self._vectors[key] = self._vector(key)
        layer = copy.deepcopy(self.run.model.prototype_layer)
        assert isinstance(layer, PrototypeLayer)
        layer.set_prototypes(torch.stack([self._vectors[key] for key in new]))
        columns, labels = [], []
        for split in (self.features, self._val_features):
            parts = [(layer(features).activation, of_batch) for features, of_batch in split]
            columns.append(torch.cat([activations for activations, _ in parts]))
            labels.append(torch.cat([of_batch for _, of_batch in parts]).to(columns[-1].device))
        self._targets = (labels[0], labels[1])
        for place, key in enumerate(new):
            self._columns[key] = (columns[0][:, place], columns[1][:, place])

    def _vector(self, key: _Key) -> Tensor:
        origin, image, flat = key
        vectors = vectors_of(self.run.model).detach()
        if origin is not None:
            return vectors[origin]
        row, column = divmod(flat, self._push.grid[1])
        height, width = self.run.model.prototype_layer.prototype_size
        window = self.features.of([image])[0, :, row : row + height, column : column + width]
        return self.run.model.from_patches(window.reshape(1, *vectors.shape[1:]).clone())[0]

    def _inputs_of(self, keys: Sequence[_Key]) -> tuple[LastLayerInputs, LastLayerInputs]:
        assert self._targets is not None
        train, val = (torch.stack([self._columns[key][split] for key in keys], dim=1) for split in (0, 1))
        return LastLayerInputs(train, self._targets[0]), LastLayerInputs(val, self._targets[1])

    def _edited_model(self, kept: Sequence[EditedPrototype], signs: Mapping[int, SignLimit]) -> PrototypeModel:
        """A copy of the run's net with these prototypes.

        A prototype of the same classes starts with its weights; the own weights of another one start at the mean of all
        own weights, its others at 0. Weights of a sign that they may not have start at 0.
        """
        model = copy.deepcopy(self.run.model)
        identity = torch.zeros(len(kept), model.num_classes, device=model.device)
        weight = model.prototype_weight.detach()  # (K, P)
        typical = weight.T[model.class_identity > 0].mean()
        start = torch.zeros(model.num_classes, len(kept), device=model.device, dtype=weight.dtype)
        for row, one in enumerate(kept):
            identity[row, list(one.classes)] = 1
            if one.number < weight.shape[1] and not one.is_reassigned:
                start[:, row] = weight[:, one.number]
            else:
                start[list(one.classes), row] = typical
        vectors = torch.stack([self._vectors[self._key(one)] for one in kept])
        model.set_prototypes(vectors, identity, within_signs(start, *allowed_signs(identity.T > 0, signs)))
        return model

    def _push_of(self, kept: Sequence[EditedPrototype]) -> PushResult:
        push = self._push

        def row(one: EditedPrototype) -> tuple[int, int, float, int]:
            if one.place is None:
                j = one.origin
                return int(push.image[j]), int(push.patch[j]), float(push.distance[j]), int(push.label[j])
            flat = one.place.patch[0] * push.grid[1] + one.place.patch[1]
            return one.place.image, flat, 0.0, int(self._labels[one.place.image])

        images, patches, distances, labels = zip(*map(row, kept), strict=True)
        return PushResult(
            image=torch.tensor(images),
            patch=torch.tensor(patches),
            distance=torch.tensor(distances),
            label=torch.tensor(labels),
            grid=push.grid,
        )
