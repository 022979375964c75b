"""The section "Can this be trusted?" of a run's page, and the numbers of single prototypes, as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import neg, pos
from typing import Any

from protokern.report import numbers
from protokern.report.questions import GROUPS, QUESTIONS, Question
from protokern.report.reading import Rich
from protokern.results.measures import Estimate, MeasureResult, Trust

Table = dict[str, Any]
_SHOWN = 3  # best prototypes, and as many worst ones
_TEXT = (
    "The points add up exactly, but are they about what is framed? Each sentence asks that in one way. The bar is the "
    "number, the thin line its 95 % interval, and the upright mark what to compare it with: mostly the same model "
    "with random patches of training pictures of their classes in place of its prototypes."
)
_FILLS = {"grey, 0.5": "grey", "blurred": "a blur of itself", "another image, drawn for each": "another picture"}
_BETTER = {"more": "more is better", "less": "less is better", "near 0": "nearer to 0 is better"}
# By which number prototypes are ranked, the best one first.
_RANKED: dict[str, Callable[[float], float]] = {"more": neg, "less": pos, "near 0": abs}
_CHANGED = {"brightness": "made dark", "blur": "blurred"}


@dataclass(frozen=True, slots=True)
class _Headline:
    """The number of a measure that its sentence is about; `reference`: what it is compared with, if anything."""

    question: Question
    name: str
    number: Estimate
    reference: Estimate | None
    of: float | None


def view_trust(trust: Trust | None) -> Table | None:
    """The section; None if nothing was measured."""
    if trust is None or not trust.results:
        return None
    measured = {one.name: one for one in trust.results if one.left_out is None}
    random = {one.name: one for one in trust.random}
    others = [name for name in measured if name not in QUESTIONS]
    groups = []
    for title, names in (*GROUPS, ("Other measures", tuple(others))):
        rows = [_view_measure(measured[name], random.get(name)) for name in names if name in measured]
        if rows:
            groups.append([title, rows])
    left_out = [[_say_name(one.name), one.left_out] for one in trust.results if one.left_out is not None]
    return {
        "title": "Can this be trusted?",
        "text": _TEXT,
        "notes": _notes(trust),
        "groups": groups,
        "left_out": left_out,
    }


def view_numbers_of(trust: Trust | None, prototype: int) -> list[list[str]]:
    """[what it is, number of the prototype, median of all prototypes] for every measure that has one for it."""
    rows = []
    for one in () if trust is None else trust.results:
        question = QUESTIONS.get(one.name)
        column = None if question is None else _column(one, question)
        if question is not None and column is not None and _is_known(column[prototype]):
            part = one.prototypes.get(question.part, ())
            named = f": {part[prototype]}" if part and part[prototype] else ""
            rows.append([question.short + named, _percent(column[prototype]), _percent(_median(column))])
        repeated = [row for row in one.table if row.get("second") == prototype and "first" in row]
        rows += [["repeats an earlier prototype", f"{row['first']}", ""] for row in repeated[:1]]
    return rows


def _notes(trust: Trust) -> list[str]:
    notes = []
    if trust.is_stale:
        notes.append(
            "Measures of other weights than those of this page are stored with the run, so they are not shown. "
            "'protokern metrics RUN' measures again."
        )
    if trust.split == "train":
        notes.append("What 'protokern metrics' measured here is of training pictures, which the model has seen.")
    if trust.num_images is None:
        notes.append("Without test pictures, little can be measured. Give the data of the run with --data.")
    elif few := [one for one in trust.results if one.name in trust.quick and _num_images(one)]:
        images = max(map(_num_images, few))
        some = f"all {images}" if images == trust.num_images else f"{images} of {trust.num_images}"
        is_all = len(few) == sum(_num_images(one) > 0 for one in trust.results)
        what = (
            "The means here are"
            if is_all
            else _join([_say_name(one.name) for one in few]).capitalize() + (" is" if len(few) == 1 else " are")
        )
        notes.append(
            f"{what} over {some} test pictures, drawn at random, so that this page is made quickly. "
            "'protokern metrics RUN' measures over all pictures, and more."
        )
    return notes


def _num_images(one: MeasureResult) -> int:
    return max((number.images for number in one.estimates.values()), default=0)


def _view_measure(one: MeasureResult, random: MeasureResult | None) -> Table:
    references = {} if random is None else random.estimates
    found = _headline(one, references)
    row: Table = {
        "name": _say_name(one.name),
        "all": [[name, *_say(number), _reference(references.get(name))] for name, number in one.estimates.items()],
        "has_reference": any(name in references for name in one.estimates),
        "details": [f"{name}: {value}" for name, value in one.settings.items()]
        + [f"{name}: {number}" for name, number in one.skipped.items() if number],
    }
    if found is None:
        return row
    value, interval, over = _say(found.number)
    line = "" if found.reference is None else f"{found.question.line_words}: {_percent(found.reference.value)}"
    line += _strength(found.question.strength, one.estimates, references) if line else ""
    return row | {
        "say": _sentence(found, one),
        "number": value,
        "interval": interval,
        "over": over or "counted, so it has no interval",
        "line": line,
        "better": _BETTER[found.question.better],
        "bar": _bar(found),
        "ends": _ends(one, found.question),
    }


def _strength(name: str, own: Mapping[str, Estimate], references: Mapping[str, Estimate]) -> str:
    """How strong the matches of random prototypes are beside these, as the end of a sentence."""
    if name not in own or name not in references:
        return ""
    return (
        f", of matches with a mean similarity of {_say(references[name])[0]}; those of the prototypes have "
        f"{_say(own[name])[0]}"
    )


def _headline(one: MeasureResult, references: Mapping[str, Estimate]) -> _Headline | None:
    """The number that the sentence is about; None if there is no such number, or no sentence."""
    question = QUESTIONS.get(one.name)
    if question is None:
        return None
    for place, wanted in enumerate(question.numbers):
        name = _find(one.estimates, wanted)
        if name is None or not math.isfinite(one.estimates[name].value):
            continue
        reference = references.get(name)
        if question.line:
            own = question.line[place]
            region = name.removesuffix(wanted) if wanted.startswith(",") else ""
            reference = one.estimates.get(region + own)
        if reference is not None and not math.isfinite(reference.value):
            reference = None
        of = _total(one, question.of)
        return _Headline(question, name, one.estimates[name], reference, of)
    return None


def _find(names: Iterable[str], wanted: str) -> str | None:
    is_end = wanted.startswith((",", " "))
    return next((name for name in names if (name.endswith(wanted) if is_end else name == wanted)), None)


def _total(one: MeasureResult, of: str) -> float | None:
    if not of:
        return None
    return one.estimates[of].value if of in one.estimates else float(one.settings[of])


def _sentence(found: _Headline, one: MeasureResult) -> Rich:
    name = found.name
    region = name.rpartition(",")[0]
    before = one.estimates.get("confidence before")
    words = {
        "place": "the bright area of its heat map" if name == "grid frame" else f"its place, {name},",
        "fill": _FILLS.get(str(one.settings.get("the rest is")), "grey"),
        "changed": _CHANGED.get(region, ""),
        "region": "by its mask" if region == "mask" else f"by its {region}",
        "of": "" if found.of is None else f"{found.of:.0f}",
        "before": "" if before is None else _percent(before.value),
    }
    pieces: Rich = []
    for piece in found.question.say.replace("{value}", "\0{value}\0").split("\0"):
        if piece == "{value}":
            pieces.append(["b", _say(found.number)[0]])
        elif piece:
            pieces.append(piece.format(**words))
    return pieces


def _say(number: Estimate) -> tuple[str, str, str]:
    """A number, its interval, and what it is over; an empty text for what there is not."""

    def words(value: float) -> str:
        return _percent(value) if number.unit == "share" else f"{value:.4g}"

    if not math.isfinite(number.value):
        return "unknown", "", ""
    interval = "" if number.low is None or number.high is None else f"{words(number.low)} to {words(number.high)}"
    images, prototypes = number.images, number.prototypes
    over = f"{images} pictures" if images else f"{prototypes} prototypes" if prototypes else ""
    return words(number.value), interval, over


def _percent(share: float) -> str:
    return numbers.percent(share).replace("-", "\N{MINUS SIGN}")


def _reference(number: Estimate | None) -> str:
    return "" if number is None else _say(number)[0]


def _bar(found: _Headline) -> list[float | None]:
    """Where on a track value, ends of the interval, the reference and zero are, from 0 to 1."""
    whole = found.of or 1.0
    number = found.number
    reference = None if found.reference is None else found.reference.value
    places = [None if one is None else one / whole for one in (number.value, number.low, number.high, reference, 0.0)]
    known = [one for one in places if one is not None]
    low, high = min(0.0, *known), max(1.0, *known)
    return [None if one is None else round((one - low) / (high - low), 4) for one in places]


def _column(one: MeasureResult, question: Question) -> Sequence[Any] | None:
    names = (_find(one.prototypes, wanted) for wanted in question.column)
    name = next((name for name in names if name is not None), None)
    return None if name is None else one.prototypes[name]


def _ends(one: MeasureResult, question: Question) -> list[list[Any]]:
    """[title, [[prototype, number], ...]] of the best and of the worst prototypes; none if all are alike."""
    column = _column(one, question)
    known = [] if column is None else [(value, index) for index, value in enumerate(column) if _is_known(value)]
    if len(known) < 2 * _SHOWN or min(known)[0] == max(known)[0]:
        return []
    rank = _RANKED[question.better]
    ranked = sorted(known, key=lambda pair: (rank(pair[0]), pair[1]))
    ends = []
    for title, ordered in (("best", ranked), ("worst", ranked[::-1])):
        extreme, other = ordered[0][0], ordered[-1][0]
        some = [pair for pair in ordered[:_SHOWN] if pair[0] != other]  # nothing is at both ends
        alike = sum(value == extreme for value, _ in known)
        more = f", {_SHOWN} of {alike} with {_percent(extreme)}" if alike > _SHOWN else ""
        ends.append([f"{title}{more}", [[index, _percent(value)] for value, index in some]])
    return ends


def _is_known(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _median(column: Sequence[Any]) -> float:
    known = sorted(value for value in column if _is_known(value))
    middle = len(known) // 2
    return known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2


def _say_name(name: str) -> str:
    return name.replace("_", " ")


def _join(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
