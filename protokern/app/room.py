"""A run that is open for questions and edits: its net, its images, its prototypes, and what was computed of them."""

from __future__ import annotations

import copy
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from protokern.app.answers import Answers, collect_answers
from protokern.app.current import Current, current_net
from protokern.app.editor import Editor, open_editor
from protokern.app.pictures import Pictures
from protokern.edits.bench import Bench
from protokern.edits.records import EditError, Entry
from protokern.errors import DataError, ProtokernError
from protokern.explain.collect import begin_report
from protokern.explain.prototypes import describe_prototypes, find_prototypes
from protokern.explain.reasons import add_global_reasons, find_importance
from protokern.explain.shown import Report
from protokern.explain.trust import stored_trust
from protokern.inputs.loaders import ShownImages
from protokern.inputs.sources import SplitFeatures
from protokern.nn import PrototypeLayer, evaluating
from protokern.results.prototypes import Prototype
from protokern.runs.data import RunData, check_classes, open_data, open_if_there
from protokern.runs.features import find_inputs, split_features
from protokern.runs.open import OpenRun, check_final, choose_device, open_run

SPLITS = ("train", "val", "test")
MOST_UPLOADS = 48  # images that were sent and can still be asked about
NO_DATA = "The images of the run are not there, so nothing can be edited. Start the page with --data DIR."
_Place = tuple[str, int, int]  # of a patch: split, image, position in the grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An image that was sent to the page, or one of the data.

    Attributes:
        pixels: (C, Y, X).
        name: of its file.
        label: its class, if that is known.
        split, index: of an image of the data; "" and -1: it was sent.
    """

    pixels: Tensor
    name: str
    label: int | None = None
    split: str = ""
    index: int = -1


def open_room(
    path: Path, address: str, *, data: str | None = None, changes: Sequence[str] = (), device: str = "auto"
) -> Room:
    """Open a run for a page.

    Args:
        path: run folder, or one of its checkpoints.
        address: of its page, ending in "/".
        data: a data folder instead of the run's; None: that of the run, if it is still there.
        changes: values of `--set`.
        device: where the model goes, see `choose_device`.

    Raises:
        CheckpointError: the run is broken, or its classes still choose their prototypes.
        DataError: the data cannot be used, or have other classes.
    """
    run = open_run(path, data=data, changes=changes, device=choose_device(device))
    has_data = data is not None  # data that were given must exist
    splits = open_data(run.config, run=run.folder) if has_data else open_if_there(run.config, run.folder)
    if splits is not None:
        check_classes(splits, run.classes)
    return Room(run, splits, address)


class Room:
    """One run behind a page.

    What needs the images of the run is made by `prepare`, which may run in the background: until it is done, images can
    be asked about, and nothing else. All else is for one thread at a time; `lock` is held by those who use it.

    Args:
        run: whose choices are final.
        splits: its data; None: they are not there.
        address: of its page, ending in "/".

    Attributes:
        pictures: what its pages show.
        lock: held while the net is used or changed.
        doing: what `prepare` does, in words; empty once it is done.
        refusal: why nothing can be edited; empty if it can be.
        current: the net that is shown.
        numbers: what was computed of it for people; None: nothing yet.
    """

    def __init__(self, run: OpenRun, splits: RunData | None, address: str) -> None:
        self.run, self.splits, self.address = check_final(run), splits, address
        self.name = run.folder.resolve().name
        self.pictures = Pictures(f"{address}pictures/")
        self.lock = threading.RLock()
        self.files = find_prototypes(run, splits)
        self.notes: list[str] = []
        self.cards = self._cards("sufficient")
        self.plain_cards = self._cards("grid")
        self.doing = "The images of the run are being read." if splits is not None else ""
        self.refusal = NO_DATA if splits is None else ""
        self.current = Current(revision=0, run=run, cards=self.cards)
        self.numbers: list[list[str]] | None = None
        self._editor: Editor | None = None
        self._features: dict[str, SplitFeatures] = {}
        self._base: dict[str, Answers] = {}
        self._columns: dict[_Place, Answers] = {}
        self._answers: dict[str, Answers] = {}
        self._sent: OrderedDict[str, Asked] = OrderedDict()

    def _cards(self, frame: str) -> tuple[Prototype, ...]:
        cards = describe_prototypes(self.run.model, self.run.classes, self.files, frame)
        importance = find_importance(self.run, self.notes if frame == "sufficient" else [])
        return cards if importance is None else add_global_reasons(cards, importance)

    def report(self) -> Report:
        """What the page says of the run and of the prototypes that it has now."""
        number = None if self.splits is None else len(self.splits.test)
        notes = list(self.notes)
        report = begin_report(self.run, self.splits, self.files, notes, stored_trust(self.run, number))
        return replace(report, prototypes=self.current.all_cards, notes=tuple(notes))

    def prepare(self, tell: Callable[[str], None] = lambda text: None) -> None:
        """Read the images of the run once, and take up its edits.

        Args:
            tell: gets what is being done, in words.
        """
        if self.splits is None:
            return
        try:
            self._prepare(self.splits, tell)
        except ProtokernError as error:
            self.refusal = str(error)
        except BaseException:
            self.refusal = "The images of the run could not be read. The terminal of the server says why."
            raise
        finally:
            self.doing = ""

    def _prepare(self, splits: RunData, tell: Callable[[str], None]) -> None:
        inputs = find_inputs(self.run, splits)
        parts = split_features(self.run, inputs.push, inputs.val, inputs.test)
        features = dict(zip(SPLITS, parts, strict=True))
        total = sum(map(len, parts))
        done = 0

        def after_batch() -> None:
            nonlocal done
            done += 1
            self.doing = f"The images of the run are being read: {done / total:.0%}."
            tell(self.doing)

        base = {}
        for split, part in features.items():
            answers = collect_answers(self.run.model, part, after_batch=after_batch)
            if answers is None:
                raise DataError(f"{split}: must hold an image; it is empty.")
            base[split] = answers
        with self.lock:
            self._features, self._base, self._answers = features, base, dict(base)
            self.doing = "The edits of the run are being taken up."
            self._editor = open_editor(Bench(self.run, inputs, features=(features["train"], features["val"])))
            self._take_up()

    def _take_up(self) -> None:
        assert self._editor is not None
        assert self.files is not None
        assert self.splits is not None
        editor = self._editor
        self.current = current_net(self.run, editor.net, editor.revision, self.cards, self.files, self.splits)
        self._answers, self.numbers = {}, None

    @property
    def editor(self) -> Editor:
        """The edits of the run.

        Raises:
            EditError: nothing can be edited; it says why.
        """
        if self._editor is None:
            raise EditError(self.doing or self.refusal)
        return self._editor

    @property
    def can_edit(self) -> bool:
        """Whether there is an editor."""
        return self._editor is not None

    def refresh(self) -> None:
        """Take over the edits of other processes."""
        if self._editor is not None:
            self._editor.refresh()
            self._take_up_if_new()

    def edit(self, entry: Entry, revision: int) -> None:
        """See `Editor.act`."""
        try:
            self.editor.act(entry, revision)
        finally:  # one that is refused may have found edits of other processes
            self._take_up_if_new()

    def _take_up_if_new(self) -> None:
        if self._editor is not None and self.current.net is not self._editor.net:
            self._take_up()

    def explained_cards(self, frame: str) -> tuple[Prototype, ...]:
        """The prototypes by row, as an explanation with these frames shows them."""
        if frame == "sufficient":
            return self.current.cards
        plain = {card.index: card for card in self.plain_cards}
        return tuple(
            replace(card, picture=plain[card.index].picture) if _is_of_run(card, plain) else card
            for card in self.current.cards
        )

    def images(self, split: str) -> ShownImages:
        """The images of a split.

        Raises:
            DataError: there are none.
        """
        if self.splits is None or split not in SPLITS:
            raise DataError(f"split: must be one of {', '.join(SPLITS)} of a run with images; got {split[:20]!r}.")
        return {"train": self.splits.push, "val": self.splits.val, "test": self.splits.test}[split]

    def features(self, split: str) -> SplitFeatures:
        """The features of a split.

        Raises:
            DataError: they are not there yet.
        """
        if split not in self._features:
            raise DataError(self.doing or self.refusal or f"split: must be one of {', '.join(SPLITS)}.")
        return self._features[split]

    def take(self, asked: Asked) -> str:
        """Keep an image that was sent, for further questions; return what it is asked for by."""
        key = secrets.token_hex(8)
        self._sent[key] = asked
        while len(self._sent) > MOST_UPLOADS:
            self._sent.popitem(last=False)
        return f"sent/{key}"

    def find(self, reference: str) -> Asked:
        """An image by what `take` returned, or by its split and position, such as "test/3".

        Raises:
            DataError: there is none.
        """
        split, _, place = reference.partition("/")
        if split == "sent":
            if place not in self._sent:
                raise DataError("The image is no longer there, because many were sent since. Send it again.")
            return self._sent[place]
        images = self.images(split)
        index = int(place) if place.isascii() and place.isdigit() and len(place) < 10 else -1
        if not 0 <= index < len(images):
            raise DataError(f"image: must be from 0 to {len(images) - 1}; got {place[:20]!r}.")
        pixels, label = images[index]
        return Asked(pixels=pixels, name=images.sample_name(index), label=label, split=split, index=index)

    def base(self, split: str) -> Answers:
        """What the net of the run answers to the images of a split, without edits; once they were read."""
        return self._base[split]

    def answers(self, split: str) -> Answers:
        """What the net that is shown answers to the images of a split.

        Raises:
            DataError: they were not read yet.
        """
        self.features(split)
        if split not in self._answers:
            self._answers[split] = self._answers_of_edited(split)
        return self._answers[split]

    def _answers_of_edited(self, split: str) -> Answers:
        """Columns of the run's own net where the vectors are the same, and new ones of the others."""
        net, base = self.current.net, self._base[split]
        assert net is not None
        width = base.grid[1]
        of_own, new = base.columns, dict[_Place, int]()
        sources: list[int | _Place] = []
        for row, one in enumerate(net.prototypes):
            if one.place is None:
                assert one.origin is not None
                sources.append(one.origin)
                continue
            place = (split, one.place.image, one.place.patch[0] * width + one.place.patch[1])
            sources.append(place)
            if place not in self._columns:
                new[place] = row
        if new:
            self._add_columns(split, list(new), list(new.values()))
        columns = [of_own([one]) if isinstance(one, int) else self._columns[one] for one in sources]
        activation, distance, patch = (
            torch.cat([getattr(one, name) for one in columns], dim=1) for name in ("activation", "distance", "patch")
        )
        with torch.no_grad():
            logits = net.model.last_layer(activation.to(net.model.device)).float().cpu()
        return replace(base, logits=logits, activation=activation, distance=distance, patch=patch)

    def _add_columns(self, split: str, places: Sequence[_Place], rows: Sequence[int]) -> None:
        """How images respond to some vectors of the net that is shown."""
        model = copy.copy(self.current.run.model)
        layer = copy.deepcopy(model.prototype_layer)
        assert isinstance(layer, PrototypeLayer)
        layer.set_prototypes(layer.vectors.detach()[list(rows)])
        pools = []
        with evaluating(layer), torch.no_grad():
            for features, _ in self._features[split]:
                pool = layer(features)
                pools.append((pool.activation.float().cpu(), pool.min_distance.float().cpu(), pool.patch.int().cpu()))
        activation, distance, patch = (torch.cat(one) for one in zip(*pools, strict=True))
        for column, place in enumerate(places):
            one = slice(column, column + 1)
            self._columns[place] = replace(
                self._base[split], activation=activation[:, one], distance=distance[:, one], patch=patch[:, one]
            )


def _is_of_run(card: Prototype, plain: dict[int, Prototype]) -> bool:
    """Whether the prototype is the patch that the run has under its number."""
    own = plain.get(card.index)
    return own is not None and own.source is not None and own.source == card.source
