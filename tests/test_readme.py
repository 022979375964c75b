"""What README promises holds: its example runs, its tables are the stored rows, its links and commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.pages.tables import PLACE, from_results, short
from protokern.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "protokern").rglob("*.md"), ROOT / "benchmarks/README.md"]


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_the_two_commands_come_first() -> None:
    first = code_blocks("")[0].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make demo", "make test"]


@pytest.mark.parametrize("target", re.findall(r"\bmake ([a-z-]+)\b(?= *[#`\n])", README))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_example_has_ten_lines_and_is_the_quickstart() -> None:
    _, example = code_blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) == 10
    assert example == (ROOT / "examples/quickstart.py").read_text(encoding="utf-8")


def test_the_example_prints_distances_of_exactly_zero() -> None:
    _, example = code_blocks("python")
    result = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert len(lines) == 6
    assert all(line.endswith(": distance 0") for line in lines)


def test_the_speed_table_is_what_the_rows_generate() -> None:
    assert PLACE.insert(README, short(from_results())) == README, "run: python -m benchmarks tables --write"


def test_every_model_stands_in_the_table() -> None:
    listed = re.findall(r"^\| [\w-]+ \| `(\w+)` \|", README, flags=re.MULTILINE)
    assert listed == list(MODELS)


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def anchors(page: Path) -> set[str]:
    """The anchors that a page of Markdown has: its headings, as GitHub turns them into links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_anchor_is_a_heading(page: Path) -> None:
    links = re.findall(r"\]\(([^):#]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
    missing = [
        f"{target}#{anchor}"
        for target, anchor in links
        if anchor not in anchors(page.parent / target if target else page)
    ]
    assert not missing


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index)}
    missing = [str(page.relative_to(ROOT)) for page in PAGES if page.parent != ROOT and page not in linked]
    assert missing == ["docs/README.md"]
