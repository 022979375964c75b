"""The verbs that change a trained model, with other processes at work on the same run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from protokern.cli import head_verb
from protokern.cli.main import main
from protokern.train.checkpoint import CheckpointState, find_checkpoint, read_state, save_checkpoint
from protokern.train.lock import lock_run
from tests.cli.pushed_run import make_run


def test_a_push_starts_from_what_another_process_wrote_just_before(tmp_path, monkeypatch, capsys) -> None:
    made = make_run(tmp_path)
    before = read_state(find_checkpoint(made.folder))

    @contextmanager
    def lock_after_another(folder: Path) -> Iterator[None]:
        made.model.keep_prototypes(torch.tensor([0, 3]))
        state = CheckpointState(config=before.config, classes=before.classes, stage="prune", epoch=before.epoch)
        save_checkpoint(folder, f"prune-{before.epoch}", made.model, state)
        with lock_run(folder):
            yield

    monkeypatch.setattr(head_verb, "lock_run", lock_after_another)
    assert main(["push", str(made.folder)]) == 0
    state = json.loads((find_checkpoint(made.folder) / "state.json").read_text())
    assert (state["stage"], state["num_prototypes"]) == ("push", 2)


def test_without_a_run_there_is_no_lock_file(tmp_path, capsys) -> None:
    tmp_path.joinpath("empty").mkdir()
    for name in ("none", "empty"):
        assert main(["push", str(tmp_path / name)]) == 2
        assert "must be a run folder" in capsys.readouterr().err
    assert list((tmp_path / "empty").iterdir()) == []
