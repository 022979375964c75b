"""Explanations and reports that show themselves: as the output of a notebook's cell, in a browser, or as a file.

The page is the one that `protokern explain` and `protokern report` write. A notebook gets it in a frame, from
which its script reaches nothing else, so that several pages do not disturb each other. It needs no network.
"""

from __future__ import annotations

import html
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from protokern.results import contrast, explanations, run
from protokern.results.tables import explanation_table

_HEIGHT = 720  # pixels of the frame in a notebook; the reader can pull it larger


class Shown:
    """What can be shown as a page."""

    __slots__ = ()

    def save(self, path: Path | str) -> None:
        """Write the page to `path`, at once."""
        raise NotImplementedError(f"{type(self).__name__} must say how its page is written: define save().")

    def _render(self) -> str | None:
        """The page as HTML with its pictures inside; None if they are too large for that."""
        raise NotImplementedError(f"{type(self).__name__} must draw its page: define _render().")

    def _repr_html_(self) -> str:
        """The page in a frame, for a notebook."""
        page = self._render()
        if page is None:
            return "<p>The pictures of this report are too large for a notebook. Write its page with save(path).</p>"
        return (
            f'<iframe sandbox="allow-scripts" title="{html.escape(repr(self))}" srcdoc="{html.escape(page)}" '
            f'style="width:100%;height:{_HEIGHT}px;border:0;resize:vertical;overflow:auto"></iframe>'
        )

    def show(self) -> None:
        """Show the page: in a notebook below the cell, elsewhere in the browser.

        Raises:
            RuntimeError: there is no browser.
        """
        if _in_notebook():
            from IPython.display import display

            display(self)
            return
        path = Path(tempfile.mkdtemp(prefix="protokern-"), "index.html")
        self.save(path)
        if not webbrowser.open(path.as_uri()):
            raise RuntimeError("show: must find a browser; there is none. Write the page with save(path).")


def _in_notebook() -> bool:
    """Whether this is a kernel, whose outputs may be HTML."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class Looked(Protocol):
    """One image as a model saw it, for questions about prototypes that its explanation does not show."""

    @property
    def bias(self) -> np.ndarray: ...
    def rows(self, prototypes: Sequence[int], a: int, b: int) -> tuple[contrast.ContrastRow, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Contrast(Shown, contrast.Contrast):
    __doc__ = contrast.Contrast.__doc__

    def __repr__(self) -> str:
        of = f" of {self.name}" if self.name else ""
        return f"Contrast{of}: {self.a} and not {self.b}, {self.difference:.2f} points"

    def __str__(self) -> str:
        """The differences in a few lines."""
        from protokern.report.contrast import contrast_lines

        return "\n".join(contrast_lines(self))

    def _render(self) -> str:
        from protokern.report.page import render_contrast

        return render_contrast(self)

    def save(self, path: Path | str) -> None:
        """Write the page to `path`, at once; it needs no other file."""
        from protokern.report.files import write_page

        write_page(self._render(), Path(path))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Explanation(Shown, explanations.Explanation):
    __doc__ = explanations.Explanation.__doc__

    sight: Looked | None = field(default=None, compare=False)  # no attribute for people: what `contrast` asks

    def __repr__(self) -> str:
        first = self.classes[0]
        of = f" of {self.name}" if self.name else ""
        return f"Explanation{of}: {first.class_name}, {first.logit:.2f} points ({first.probability:.1%})"

    def _render(self) -> str:
        from protokern.report.page import render_explanation

        return render_explanation(self, self.model_name)

    def save(self, path: Path | str) -> None:
        """Write the page to `path`, at once; it needs no other file."""
        from protokern.report.page import write_explanation

        write_explanation(self, self.model_name, Path(path))

    def to_dict(self) -> dict[str, Any]:
        """All numbers, without pictures: what the JSON file of `protokern explain` holds of the image."""
        return explanation_table(self)

    def contrast(self, a: str | int, b: str | int, *, top: int = 6) -> Contrast:
        """Why class `a` and not class `b`: the difference of their points, prototype by prototype.

        Args:
            a, b: two classes, by name or index.
            top: at most so many prototypes are shown, at least 1; the others are summed up.

        Raises:
            ValueError: a class is unknown, both are the same, or the reasons of the model are no points.
        """
        index_a, index_b = (_class_index(name, one, self.class_names) for name, one in (("a", a), ("b", b)))
        if index_a == index_b:
            raise ValueError(f"b: must be another class than a; got {self.class_names[index_a]!r} twice. Name another.")
        if top < 1:
            raise ValueError(f"top: must be at least 1; got {top}.")
        if self.sight is None:
            raise ValueError(
                "contrast: must be asked of a model whose reasons are points; this one decides along a path. Read its "
                "decisions."
            )
        difference = self.points[:, index_a] - self.points[:, index_b]
        order = [j for j in np.argsort(-np.abs(difference), kind="stable").tolist() if difference[j] != 0]
        bias, totals, shares = self.sight.bias, self.points.sum(axis=0), self.probabilities
        return Contrast(
            a=self.class_names[index_a],
            b=self.class_names[index_b],
            total_a=float(totals[index_a] + bias[index_a]),
            total_b=float(totals[index_b] + bias[index_b]),
            probability_a=float(shares[index_a]),
            probability_b=float(shares[index_b]),
            rows=self.sight.rows(order[:top], index_a, index_b),
            other_difference=float(difference[order[top:]].sum()),
            num_other=len(order[top:]),
            bias=float(bias[index_a] - bias[index_b]),
            name=self.name,
            image=self.image,
            model_name=self.model_name,
            is_focal=self.is_focal,
            is_salient=self.is_salient,
            is_projected=self.is_projected,
            has_exemplars=any(one.score is not None for one in self.classes),
        )


def _class_index(argument: str, given: str | int, names: Sequence[str]) -> int:
    if isinstance(given, str) and given in names:
        return names.index(given)
    if not isinstance(given, (str, bool)) and given in range(len(names)):
        return int(given)
    wanted = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    raise ValueError(f"{argument}: must be a class, one of {wanted}; got {given!r}. Check the spelling.")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report(Shown, run.Report):
    __doc__ = run.Report.__doc__

    def __repr__(self) -> str:
        return f"Report of {self.title}: {len(self.prototypes)} prototypes, {len(self.classes)} classes"

    def _render(self) -> str | None:
        from protokern.report.page import render_small_report

        return render_small_report(self)

    def save(self, path: Path | str) -> None:
        """Write the page to `path`, at once; many pictures go to a folder `pictures` beside it."""
        from protokern.report.page import write_report

        write_report(self, Path(path))
