"""The one door: every verb leads to a file, and the commands of the documents are verbs."""

from __future__ import annotations

import ast
import re

import pytest

from benchmarks.__main__ import MODULES, VERBS, main
from benchmarks.commit import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md", ROOT / "Makefile"]


@pytest.mark.parametrize("verb", MODULES)
def test_every_verb_leads_to_a_file_with_a_main(verb: str) -> None:
    path = ROOT / f"{MODULES[verb].replace('.', '/')}.py"
    functions = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert functions["main"].args.args[0].arg == "argv"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_verb_in_a_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert list(listed) == list(MODULES)
    for verbs in VERBS.values():
        for verb, sentence in verbs.items():
            assert listed[verb].endswith(f" {sentence}")


def test_an_unknown_verb_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("VERB: must be one of ops, memory, ")
    assert message.endswith("; got 'speed'. python -m benchmarks lists what each does.\n")


def test_what_follows_the_verb_goes_to_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["accuracy", "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m benchmarks accuracy ")


def test_the_commands_of_the_documents_are_verbs() -> None:
    found = [
        (path.name, command)
        for path in PAGES
        if path.name != "CHANGELOG.md"
        for command in re.findall(r"-m benchmarks([. ][\w-]+)", path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 20
    assert not [one for one in found if one[1] not in {f" {verb}" for verb in (*MODULES, "VERB")}]
