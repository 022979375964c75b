"""Explanations and reports that show themselves: as the output of a notebook's cell, in a browser, or as a file.

The page is the one that `protokern explain` and `protokern report` write. A notebook gets it in a frame, from
which its script reaches nothing else, so that several pages do not disturb each other. It needs no network.
"""

from __future__ import annotations

import html
import sys
import tempfile
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protokern.results import explanations, run

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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Explanation(Shown, explanations.Explanation):
    __doc__ = explanations.Explanation.__doc__

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
