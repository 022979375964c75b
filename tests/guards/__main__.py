"""Runs the guards; see the package."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.guards.cases import (
    ASKED_BACK,
    PHOTOGRAPHS,
    RUNS,
    SELDOM,
    SHORT,
    SMALL,
    STOPS,
    VERBS,
    WITHOUT_RUN,
    write_photographs,
)
from tests.guards.page import facts_of

HERE = Path(__file__).resolve().parents[2]
BASE = "3499637"  # the last commit before the package was moved about
CHECKS = {
    "train": "the runs from the start, and those that are stopped within an epoch",
    "resume": "what the base stopped goes on here, as it does there",
    "verbs": "every verb on the runs of the base, and mistakes without a run: what is printed, exit codes, files",
    "page": "the facts on the pages: words, numbers, boxes, pictures; needs Chromium",
    "addresses": "documented names, public names, ops, exported programs",
    "back": "the base goes on with what was stopped here, and opens what was trained here",
}
# Clock, commit, and bytes of pages, which are compared by their facts: these may differ.
_MASKS = (
    (r"(about [\d.]+ (s|min|h)|less than 1 s)\b", "about _"),
    (r'"(seconds|checksum|\w+\.safetensors)": ?("[^"]*"|[\d.e+-]+|\{[^}]*\})', r'"\1": _'),
    (r"\b\d+\.\d s\b", "_ s"),
    (r'(?m)^git = ".*"\n|^word "?[0-9a-f]{12}\+?"?,?\n', ""),
    (r'("name": "[^"]*\.html", .*"sha256": )"\w+"', r"\1_"),
)
# What is meant to be new: two settings, which are at their defaults, two verbs, and what `train --help` says.
_NEW = (
    (r',\s*"(top_k|search_precision)": ?("auto"|1)', ""),
    (r'(?m)^(top_k = 1|search_precision = "auto"|word (top_k|search_precision))\n', ""),
    (r"(?s)usage: protokern train .*?(?=\n\n'protokern settings'|\Z)", ""),
    (r"(?m)^ +(settings|recipes) .*\n|\n\n'protokern settings' prints .*|'(settings|recipes)', ", ""),
)
Answers = dict[str, str]


class Side:
    """One revision at work in a folder: `answers` says by name what it printed, returned and wrote."""

    def __init__(self, tree: Path, folder: Path, runs: Sequence[str], *, must_succeed: bool = False) -> None:
        self.tree, self.folder, self.runs, self.must_succeed = tree, folder, runs, must_succeed
        self.answers: Answers = {}
        self._files: dict[str, dict[str, str]] = {}  # by the folder that is watched
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "tests/guards/worker.py")],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        found = self._answer()["package"]
        if not Path(found).is_relative_to(tree):
            raise SystemExit(f"guards: must try the package in {tree}; got {found}.")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def call(self, name: str, *given: Any) -> Any:
        """A function of `addresses`, in a process of this revision."""
        return self._ask({"call": name, "given": given})

    def command(self, name: str, *arguments: str, watched: str | None = None, stop_after: int = 0) -> None:
        """Run `protokern ARGUMENTS`, and remember under `name` what came of it in the folder `watched`."""
        answer = self._ask({"arguments": arguments, "stop_after": stop_after})
        if self.must_succeed and watched is not None and answer["code"] != (143 if stop_after else 0):
            raise SystemExit(f"guards: {name} must work at the base; got {answer['code']}: {answer['stderr']}")
        for kind in ("code", "stdout", "stderr"):
            self.answers[f"{name}: {kind}"] = self.placeless(str(answer[kind]))
        if watched is not None:
            self._remember_files(name, watched)

    def placeless(self, text: str) -> str:
        return text.replace(str(self.folder), "<here>").replace(str(self.tree), "<tree>")

    def _remember_files(self, name: str, watched: str) -> None:
        """What each file holds that is new or different since the last command; HTML is for `page`."""
        files = {
            str(path.relative_to(self.folder)): self._content(path)
            for path in sorted((self.folder / watched).rglob("*"))
            if path.is_file() and path.name != ".lock" and path.suffix not in (".html", ".jpg")
        }
        before = self._files.get(watched, {})
        for path in files.keys() | before.keys():
            if files.get(path) != before.get(path):
                self.answers[f"{name}: {path}"] = files.get(path, "removed")
        self._files[watched] = files

    def _content(self, path: Path) -> str:
        content = path.read_bytes()
        if path.suffix == ".safetensors":  # whose header is written in any order
            size = 8 + int.from_bytes(content[:8], "little")
            header = json.dumps(json.loads(content[8:size]), sort_keys=True, indent=0)
            return self.placeless(header.replace('\\"', '"')) + hashlib.sha256(content[size:]).hexdigest()
        try:
            return self.placeless(content.decode())
        except UnicodeDecodeError:
            return hashlib.sha256(content).hexdigest()

    def _ask(self, order: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline() or sys.exit("guards: the process of a revision has died."))


def train(side: Side, photographs: Path) -> None:
    for name in side.runs:
        flags = [part for setting in (*SMALL, *RUNS[name]) for part in ("--set", setting)]
        flags += ["--recipe", "paper"] if name != "pool" else []  # no recipe is for a pool
        flags += ["--data", str(photographs)] if name in PHOTOGRAPHS else []
        side.command(f"train {name}", "train", "--out", f"trained/{name}", *flags, watched=f"trained/{name}")
        if name in STOPS:
            out = f"stopped/{name}"
            side.command(f"stop {name}", "train", "--out", out, *flags, watched=out, stop_after=STOPS[name])


def resume(side: Side, stopped: Path) -> None:
    for name in (one for one in side.runs if one in STOPS):
        run = f"resumed/{name}"
        shutil.copytree(stopped / name, side.folder / run)
        side.command(f"resume {name}", "train", "--out", run, "--resume", watched=run)


def verbs(side: Side, trained: Path, chosen: Sequence[int] = range(len(VERBS))) -> None:
    folder = "verbs"
    for name in side.runs:
        shutil.copytree(trained / name, side.folder / folder / name / "run")
        for number in (one for one in chosen if one in SHORT or name not in SELDOM):
            words = [word.replace("HERE", f"{folder}/{name}") for word in VERBS[number]]
            side.command(f"{folder} {name} {number} {words[0]}", *words, watched=f"{folder}/{name}")


def mistakes(side: Side) -> None:
    for words in WITHOUT_RUN:
        side.command(" ".join(("protokern", *words)), *words)


def pages(side: Side) -> None:
    paths = [path for name in side.runs for path in sorted((side.folder / "verbs" / name).rglob("*.html"))]
    side.answers |= {side.placeless(f"page {name}"): side.placeless(text) for name, text in facts_of(paths).items()}


def addresses(side: Side, base: Path, names: list[str]) -> None:
    """What the base has must be here too; what is new here does not count."""
    found: dict[str, list[str]] = {kind: side.call(kind) for kind in ("public", "schemas", "serialized")}
    before: dict[str, list[str]] = json.loads((base / "addresses.json").read_text())
    for kind, wanted in before.items():
        side.answers[f"addresses {kind}"] = "\n".join(one for one in wanted if one in found[kind])
    side.answers["addresses documented: missing"] = "\n".join(side.call("missing", names))
    for name, outcome in side.call("open_programs", str(base / "programs")).items():
        side.answers[f"program {name}"] = outcome


def work(side: Side, base: Path, skipped: Sequence[str]) -> None:
    """All that one revision does by itself; the two have the runs of `base` before them."""
    steps = {
        "train": [partial(train, side, base.parent / "photographs")],
        "resume": [partial(resume, side, base / "stopped")],
        "verbs": [partial(verbs, side, base / "trained"), partial(mistakes, side)],
        "page": [partial(pages, side)],
        "addresses": [partial(addresses, side, base, json.loads((base / "documented.json").read_text()))],
    }
    for name, parts in steps.items():
        started = time.monotonic()
        for part in () if name in skipped else parts:
            part()
        print(f"  {name}: {time.monotonic() - started:.0f} s", flush=True)


def make_base(tree: Path, base: Path) -> None:
    """What the base does, in `base`, for all times."""
    if not (base.parent / "photographs").exists():
        write_photographs(base.parent / "photographs")
    side = Side(tree, base, tuple(RUNS), must_succeed=True)
    (base / "documented.json").write_text(json.dumps(side.call("documented", str(tree))))
    (base / "addresses.json").write_text(json.dumps({k: side.call(k) for k in ("public", "schemas", "serialized")}))
    side.call("write_programs", str(base / "programs"))
    work(side, base, ())
    side.close()
    (base / "answers.json").write_text(json.dumps(side.answers))


def ask_back(tree: Path, here: Path, runs: Sequence[str]) -> Answers:
    """What the base makes of the runs of the tree at hand, under the names of what it made of its own."""
    folder = here / "back"
    folder.mkdir()
    side = Side(tree, folder, runs)
    resume(side, here / "stopped")
    verbs(side, here / "trained", ASKED_BACK)
    side.close()
    return side.answers


def differences(wanted: Answers, found: Answers) -> Iterator[str]:
    """Each answer that is not the same, with the first lines that differ."""
    for name in dict.fromkeys((*wanted, *found)):
        before, after = (_masked(answers.get(name, "nothing of that name")) for answers in (wanted, found))
        if before != after:
            lines = [text.splitlines() for text in (before, after)]
            shown = list(difflib.unified_diff(lines[0], lines[1], "base", "here", n=0, lineterm=""))[2:14]
            yield "\n    ".join([name, *(line[:300] for line in shown)])


def _masked(text: str) -> str:
    for pattern, replacement in (*_MASKS, *_NEW):
        text = re.sub(pattern, replacement, text)
    return text


@contextmanager
def worktree(revision: str, folder: Path) -> Iterator[Path]:
    """The files of a revision, with the native libraries of the tree at hand."""
    git = ["git", "-C", str(HERE), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", str(folder), revision], check=True)
    try:
        shutil.copytree(HERE / "protokern/lib", folder / "protokern/lib")
        for path in (HERE / "protokern").glob("_host*.so"):
            shutil.copy(path, folder / "protokern")
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.guards", description="Compare the tree at hand with a base.")
    parser.add_argument("--base", metavar="REV", default=BASE, help=f"default: {BASE}")
    parser.add_argument(
        "--keep", metavar="DIR", help="where the answers of the base stay; default: they are made again"
    )
    said = "; ".join(f"{name}: {text}" for name, text in CHECKS.items())
    parser.add_argument("--skip", nargs="+", choices=tuple(CHECKS), default=(), help=f"leave out some. {said}")
    parser.add_argument("--runs", nargs="+", choices=tuple(RUNS), default=tuple(RUNS), help="only these runs here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        keep = Path(args.keep or scratch).resolve()
        base, here = keep / args.base / "base", Path(scratch, "here")
        here.mkdir()
        with worktree(args.base, Path(scratch, "tree")) as tree:
            if not (base / "answers.json").exists():
                print(f"{args.base}:", flush=True)
                shutil.rmtree(base, ignore_errors=True)
                base.mkdir(parents=True)
                make_base(tree, base)
            wanted: Answers = json.loads((base / "answers.json").read_text())
            print("here:", flush=True)
            side = Side(HERE, here, args.runs)
            work(side, base, args.skip)
            side.close()
            found = list(differences(_of(side.answers, wanted), side.answers))
            if not {"back", "train"} & set(args.skip):
                back = ask_back(tree, here, args.runs)
                found += [f"back: {one}" for one in differences(_of(back, wanted), back)]
    print(*found, f"{len(wanted)} answers of {args.base}; {len(found)} differ here.", sep="\n")
    return bool(found)


def _of(answers: Answers, wanted: Answers) -> Answers:
    """Those answers of the base that were asked for again: all of each command that was given."""
    asked = {name.partition(":")[0] for name in answers}
    return {name: text for name, text in wanted.items() if name.partition(":")[0] in asked}


if __name__ == "__main__":
    sys.exit(main())
