from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import protokern
from protokern.cli import doctor
from protokern.cli.main import VERBS, main
from protokern.kernels.backends import BackendStatus


def test_help_lists_every_verb_without_importing_torch() -> None:
    script = "import sys; from protokern.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    for name, purpose in VERBS:
        assert f"{name} " in printed
        assert purpose.split()[0] in printed
    assert printed.splitlines()[-1] == "False"


@pytest.mark.parametrize("verb", [name for name, _ in VERBS])
def test_every_verb_has_help_and_keeps_the_contract(verb, capsys) -> None:
    module = import_module(f"protokern.cli.{verb}")
    assert callable(module.add_arguments)
    assert callable(module.run)
    assert main([verb, "--help"]) == 0
    assert "--debug" in capsys.readouterr().out


def test_the_guide_has_a_row_for_every_verb_in_the_order_of_the_help() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/cli.md").read_text(encoding="utf-8")
    rows = page.partition("| verb | what it does |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)", rows, flags=re.MULTILINE) == [name for name, _ in VERBS]


def test_the_version_is_the_package_s(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"protokern {protokern.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "protokern: the following arguments are required: VERB. See 'protokern --help'."),
        (["trian"], "protokern: argument VERB: invalid choice: 'trian'"),
        (["train", "--out", "x", "--epochs", "3"], "protokern: unrecognized arguments: --epochs 3"),
        (["evaluate"], "protokern evaluate: the following arguments are required: RUN"),
        (["evaluate", "x", "--split", "dev"], "protokern evaluate: argument --split: invalid choice: 'dev'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments, message, capsys) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert len(error.splitlines()) == 1


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "protokern", "evaluate", "/nowhere"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == ("protokern evaluate: /nowhere: must be a run folder or a checkpoint; it does not exist.\n")


def test_a_mistake_shows_its_traceback_with_debug() -> None:
    command = [sys.executable, "-m", "protokern", "evaluate", "/nowhere", "--debug"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "CheckpointError" in done.stderr


def test_an_error_of_the_system_is_one_line(monkeypatch, capsys) -> None:
    def fail(args) -> int:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr(doctor, "run", fail)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "protokern doctor: /some/file: Permission denied\n"


def test_ctrl_c_is_exit_code_130(monkeypatch, capsys) -> None:
    def fail(args) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", fail)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "protokern doctor: stopped\n"


def test_a_fault_of_the_program_is_not_hidden(monkeypatch) -> None:
    def fail(args) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(doctor, "run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["doctor", "--debug"])


def test_doctor_tells_in_which_precisions_the_backends_search(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "tf32", "bf16")}
    monkeypatch.setattr(doctor, "available_backends", lambda: {"native": BackendStatus(True, tuple(offered), "")})
    monkeypatch.setattr(doctor, "precisions", lambda backend, device: offered[device])
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("backend native"))
    name, value = lines[at + 1].strip().split("  ", 1)
    assert (name, value.strip()) == ("precisions", "cpu: fp32, bf16; cuda: fp32, tf32, bf16")


def test_doctor_tells_versions_backends_and_reasons(capsys) -> None:
    assert main(["doctor"]) == 0
    facts = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if not line.startswith(" "))
    assert facts["protokern"].strip().startswith(protokern.__version__)
    assert facts["backend reference"].strip() == "yes, on any"
    assert facts["backend triton"].strip().startswith(("yes", "no: "))
    for name in ("python", "torch", "numpy", "native library", "instruction set", "cuda", "threads"):
        assert facts[name].strip()
