"""The files of a run: state, log and tables, written line by line, here and in OUT. Knows no torch.

A file that cannot be written is reported once: the run continues, and prints what it finds.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.commit import ROOT
from benchmarks.gpu.plan import DONE, MOST_TRIES, Phase, Record, Unit
from benchmarks.pages.results import append_dicts

STATE, LOG, SUMMARY = "state.jsonl", "log.txt", "summary.md"
TABLES = ("smoke", "speed", "memory", "tiles", "device")
# Kept only here: which tests passed.
TESTS = "tests-*.jsonl"
FILES = (SUMMARY, LOG, STATE, *(f"{name}.csv" for name in TABLES))
# A change in these makes results those of something else. Tables that a run itself writes are not among them.
SOURCES = (("protokern", ".py"), ("benchmarks", ".py"), ("csrc", ""))


def fingerprint(root: Path = ROOT) -> str:
    """Of the sources that results depend on, with or without git."""
    digest = hashlib.sha256()
    for folder, ending in SOURCES:
        for path in sorted((root / folder).rglob(f"*{ending}")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass
class Store:
    """Everything that a run writes down.

    Attributes:
        home: the folder that is always written, and that the state is read from.
        out: another folder with the same files; None for none.
        results: where rows of a table go besides, by its name.
        sources: fingerprint of what is measured.
        troubles: what could not be written.
    """

    home: Path
    out: Path | None
    results: Mapping[str, Path]
    sources: str
    records: dict[str, dict[str, Record]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)

    @property
    def folders(self) -> list[Path]:
        return [self.home] if self.out is None else [self.home, self.out]

    def open(self) -> str:
        """Take up the state of the last call, of OUT before that of `home`; says what became of it."""
        for folder in self.folders:
            self.attempt(partial(folder.mkdir, parents=True, exist_ok=True), folder)
        found = next((path for path in reversed(self.folders) if (path / STATE).is_file()), None)
        if found is None:
            self._note({"sources": self.sources})
            return "a first call"
        sources, records = read_state(found / STATE)
        if sources != self.sources:
            kept = self.home / f"before-{sources or 'unknown'}"
            for folder in self.folders:
                self.attempt(partial(move_files, folder, kept), kept)
            self._note({"sources": self.sources})
            return f"the sources are not those of the last call: starts over; what it found is in {kept}"
        for folder in self.folders:
            if folder != found:
                self.attempt(partial(copy_files, found, folder), folder)
        self.records = records
        return f"goes on where the last call ended: {sum(map(len, records.values()))} units have a result"

    def left(self, phase: Phase, units: Sequence[Unit]) -> list[Unit]:
        """The units that this call has to do: new ones first, then those that failed once."""
        if phase.always:
            return list(units)
        known = self.records.get(phase.name, {})
        found = [(unit, known.get(unit["name"])) for unit in units]
        fresh = [unit for unit, record in found if record is None or record.status == "missing"]
        again = [
            unit
            for unit, record in found
            if record is not None and record.status not in (*DONE, "missing") and record.tries < MOST_TRIES
        ]
        return fresh + again

    def keep(self, phase: Phase, unit: Unit, result: Mapping[str, Any]) -> Record:
        """Write down what came of a unit: its rows first, so that a unit with a record has its rows."""
        for table, rows in result["tables"].items():
            for folder in self.folders:
                self._append(folder / f"{table}.csv", rows)
            if table in self.results:
                self._append(self.results[table], rows)
        before = self.records.get(phase.name, {}).get(unit["name"])
        record = Record(
            status=result["status"],
            text=result["text"],
            tries=1 + (0 if before is None else before.tries),
            data=dict(result["data"]),
        )
        self.records.setdefault(phase.name, {})[unit["name"]] = record
        self._note({"phase": phase.name, "unit": unit["name"], **asdict(record)})
        return record

    def say(self, text: str) -> None:
        print(text, flush=True)
        self._write(LOG, text + "\n")

    def finish(self, text: str) -> None:
        """Replace the last summary."""
        for folder in self.folders:
            path = folder / SUMMARY
            self.attempt(partial(path.write_text, text, encoding="utf-8"), path)

    def attempt(self, write: Callable[[], object], path: Path) -> None:
        try:
            write()
        # No room, no right to write, or a file that is something else.
        except (OSError, ValueError) as error:
            trouble = f"{path}: could not be written ({error})."
            if trouble not in self.troubles:
                self.troubles.append(trouble)
                print(f"!! {trouble} The run goes on; keep what it prints.", flush=True)

    def _append(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        self.attempt(partial(append_dicts, path, rows), path)

    def _note(self, line: Mapping[str, Any]) -> None:
        self._write(STATE, json.dumps(line) + "\n")

    def _write(self, name: str, text: str) -> None:
        def write(path: Path) -> None:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)

        for folder in self.folders:
            self.attempt(partial(write, folder / name), folder / name)


def read_state(path: Path) -> tuple[str, dict[str, dict[str, Record]]]:
    """Fingerprint and records of a state file; a last line that was cut off is passed over."""
    sources = ""
    records: dict[str, dict[str, Record]] = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if "sources" in line:
            sources = line["sources"]
            continue
        phase, unit = line.pop("phase"), line.pop("unit")
        records.setdefault(phase, {})[unit] = Record(**line)
    return sources, records


def move_files(folder: Path, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for name in (*FILES, *(path.name for path in folder.glob(TESTS))):
        if (folder / name).exists():
            shutil.move(folder / name, to / name)


def copy_files(folder: Path, to: Path) -> None:
    for name in FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, to / name)


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a table; none where it is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
