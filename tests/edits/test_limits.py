"""Limits of signs for a class: their record, their undoing, the net on the bench and the run that is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from protokern.cli.edit import outcome_lines
from protokern.cli.main import main
from protokern.edits.bench import Bench, EditedNet
from protokern.edits.history import EDITS_FORMAT, append_entry, read_history, settle
from protokern.edits.records import Add, Assign, EditError, Forbid, Limit, Redo, Undo, from_table, to_table
from protokern.errors import CheckpointError
from protokern.runs.features import find_inputs
from protokern.runs.open import OpenRun, open_run
from protokern.solvers.last_layer import solve_last_layer
from tests.cli.pushed_run import CLASSES, PushedRun, make_run

FIRST, SECOND = CLASSES
STRICT = Limit(classes=(SECOND,), own="for", others="against")
ALONE = Limit(classes=(FIRST,), others="none")
LIFTED = Limit(classes=(SECOND,))
IMAGE = f"train/{SECOND}/2.png"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    return make_run(tmp_path_factory.mktemp("limits"))


@pytest.fixture(scope="module")
def opened(pushed: PushedRun) -> OpenRun:
    """A run whose weights break every limit."""
    run = open_run(pushed.folder)
    with torch.no_grad():
        run.model.last_layer.weight.mul_(-1)
    return run


@pytest.fixture(scope="module")
def bench(opened: OpenRun, pushed: PushedRun) -> Bench:
    return Bench(opened, find_inputs(opened, pushed.splits))


def apply(bench: Bench, *entries) -> EditedNet:
    return bench.apply(settle(entries))


def parts_of(net: EditedNet, k: int) -> tuple[Tensor, Tensor]:
    """The weights into the logit of a class: of its own prototypes, and of the others."""
    is_own = torch.tensor([k in one.classes for one in net.prototypes])
    weight = net.model.last_layer.weight.detach()[k]
    return weight[is_own], weight[~is_own]


def test_a_limit_is_a_line_of_json(tmp_path: Path) -> None:
    table = {"kind": "limit", "classes": [SECOND], "own": "for", "others": "against"}
    assert to_table(STRICT) == table
    assert from_table(json.loads(json.dumps(table))) == STRICT
    assert from_table({"kind": "limit", "classes": [SECOND]}) == LIFTED
    for entry in (STRICT, ALONE, Undo(), LIFTED):
        append_entry(tmp_path / "edits.jsonl", entry)
    assert read_history(tmp_path / "edits.jsonl") == [STRICT, ALONE, Undo(), LIFTED]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"kind": "limit", "own": "for"}', "line 2: must have 'classes' in 'limit'. Mend the line or leave it out."),
        (
            '{"kind": "limit", "classes": []}',
            "must have different names of classes, at least one as 'classes' in 'limit'",
        ),
        ('{"kind": "limit", "classes": ["a"], "own": "against"}', "one of any, for as 'own' in 'limit'; got 'against'"),
        ('{"kind": "limit", "classes": ["a"], "own": ["for"]}', "must have one of any, for as 'own' in 'limit'; got"),
        (
            '{"kind": "limit", "classes": ["a"], "others": "for"}',
            "must have one of any, against, none as 'others' in 'limit'; got 'for'",
        ),
        ('{"kind": "limit", "classes": ["a"], "sign": "for"}', "must have no 'sign' in 'limit'"),
    ],
)
def test_a_limit_that_is_none_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text(json.dumps({"kind": "format", "format": EDITS_FORMAT}) + f"\n{line}\n")
    with pytest.raises(CheckpointError, match=message):
        read_history(path)


def test_a_limit_of_no_class_is_named(bench: Bench) -> None:
    limit = Limit(classes=("nothing",), own="for")
    with pytest.raises(EditError, match="edit 2, 'limit': classes must be classes of the net; got 'nothing'"):
        apply(bench, STRICT, limit)
    assert apply(bench, limit, Undo()).limits == {}, "what does not count is not looked up"


def test_a_limit_alone_solves_the_last_layer_again(bench: Bench) -> None:
    net = apply(bench, STRICT)
    own, others = parts_of(net, 1)
    assert net.solved is not None
    assert dict(net.limits) == {1: STRICT}
    assert all(w >= 0 for w in own.tolist())
    assert all(w <= 0 for w in others.tolist())
    assert own.any(), "the class is not merely silenced"
    assert [one.number for one in net.prototypes] == list(range(6))


@pytest.mark.parametrize(
    "limit",
    [
        Limit(classes=(FIRST,), others="against"),
        Limit(classes=(FIRST,), others="none"),
        Limit(classes=(SECOND,), own="for"),
        Limit(classes=CLASSES, own="for", others="none"),
    ],
)
def test_a_limit_beside_other_edits_holds(bench: Bench, limit: Limit) -> None:
    """Prototype 1 speaks for the first class, wherever it belongs."""
    moved = Assign(prototype=1, classes=(SECOND,))

    def is_kept(net: EditedNet) -> bool:
        parts = [parts_of(net, CLASSES.index(name)) for name in limit.classes]
        is_own_kept = limit.own == "any" or all(bool((own >= 0).all()) for own, _ in parts)
        if limit.others == "none":
            return is_own_kept and not any(bool(others.any()) for _, others in parts)
        return is_own_kept and (limit.others == "any" or all(bool((others <= 0).all()) for _, others in parts))

    assert not is_kept(apply(bench, moved)), "else the limit does nothing"
    assert is_kept(apply(bench, moved, limit))


def test_no_weights_within_the_limits_are_better(bench: Bench, pushed: PushedRun) -> None:
    """Random weights near the solution, brought inside by hand, do not lower the objective by more than the gap."""
    net = apply(bench, STRICT, ALONE)
    solved, config = net.solved, bench.run.config.train
    assert solved is not None
    assert solved.l1 > 0
    push = pushed.splits.push
    with torch.no_grad():
        images = torch.stack([push[i][0] for i in range(len(push))])
        activations = net.model(images).activations.double()
    labels, is_own = torch.tensor(push.labels), net.model.class_identity.T > 0
    # The ridge holds own weights at those of the run, and at zero where these have a forbidden sign.
    start = torch.where(is_own, bench.run.model.last_layer.weight.detach().double(), 0.0)
    start[1] = start[1].clamp(min=0)

    def objective(weight: Tensor) -> float:
        ridge = solved.ridge / len(weight) / 2 * (weight - start)[is_own].square().sum()
        loss = torch.nn.functional.cross_entropy(activations @ weight.T, labels, label_smoothing=config.label_smoothing)
        return float(config.cross_entropy * loss + solved.l1 * weight[~is_own].abs().sum() + ridge)

    found = net.model.last_layer.weight.detach().double()
    generator = torch.Generator().manual_seed(0)
    for scale in (0.003, 0.03, 0.3):
        for _ in range(200):
            tried = found + scale * torch.randn(found.shape, generator=generator, dtype=torch.float64)
            tried = torch.where(is_own, tried, tried.clamp(-config.last_layer_bound, config.last_layer_bound))
            tried[0] = torch.where(is_own[0], tried[0], 0.0)
            tried[1] = torch.where(is_own[1], tried[1].clamp(min=0), tried[1].clamp(max=0))
            assert objective(tried) >= objective(found) * (1 - config.last_layer_gap)


def test_a_later_limit_of_a_class_replaces_the_former(bench: Bench) -> None:
    both = Limit(classes=CLASSES, own="for")
    assert dict(apply(bench, both, ALONE).limits) == {0: ALONE, 1: both}
    assert dict(apply(bench, ALONE, both).limits) == {0: both, 1: both}
    net = apply(bench, ALONE, Limit(classes=(FIRST,), own="for"))
    assert parts_of(net, 0)[1].any(), "the former limit is gone"


def test_limits_are_lifted_undone_and_redone(bench: Bench, opened: OpenRun) -> None:
    for entries in ((STRICT, LIFTED), (STRICT, Undo()), (STRICT, ALONE, Undo(), Undo()), (LIFTED,)):
        net = apply(bench, *entries)
        assert net.limits == {}
        assert net.solved is None
        assert all(torch.equal(one, net.model.state_dict()[key]) for key, one in opened.model.state_dict().items())
    again = apply(bench, STRICT, Undo(), Redo())
    assert torch.equal(again.model.last_layer.weight, apply(bench, STRICT).model.last_layer.weight)
    assert dict(apply(bench, STRICT, LIFTED, Undo()).limits) == {1: STRICT}


def test_own_prototypes_are_those_after_the_edits(bench: Bench) -> None:
    """One that was moved into the class is its own, one that left it is another's; a shared one is own to both."""
    net = apply(
        bench,
        STRICT,
        Forbid(prototype=1),
        Assign(prototype=0, classes=(SECOND,)),
        Assign(prototype=5, classes=(FIRST,)),
        Add(classes=CLASSES, image=IMAGE, patch=(0, 0)),
    )
    own, others = parts_of(net, 1)
    assert len(own) == 4
    assert all(w >= 0 for w in own.tolist())
    assert all(w <= 0 for w in others.tolist())


def test_the_search_starts_within_the_limits(bench: Bench, opened: OpenRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the run's weights, those of a forbidden sign at zero: so they compete on the validation images."""
    starts = []

    def solve(model, *inputs, limits):
        starts.append(model.last_layer.weight.detach().clone())
        return solve_last_layer(model, *inputs, limits=limits)

    monkeypatch.setattr("protokern.edits.bench.solve_last_layer", solve)
    apply(bench, STRICT)
    (start,), old = starts, opened.model.last_layer.weight.detach()
    is_own = opened.model.class_identity.T > 0
    assert torch.equal(start[0], old[0])
    assert torch.equal(start[1], torch.where(is_own[1], old[1].clamp(min=0), old[1].clamp(max=0)))
    assert not torch.equal(start[1], old[1])


def test_the_outcome_tells_every_limited_class(bench: Bench) -> None:
    lines = outcome_lines(apply(bench, STRICT, ALONE), ("a\x1b[31m hat", "coat"))
    assert "limited: a\\x1b[31m hat: prototypes of other classes say nothing about it" in lines
    assert (
        "limited: coat: its own prototypes speak only for it; prototypes of other classes speak only against it"
    ) in lines
    assert not any(line.startswith("limited") for line in outcome_lines(apply(bench, STRICT, LIFTED), CLASSES))


def test_the_run_that_is_written_keeps_the_signs_and_an_edit_of_it_does_not(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = tmp_path / "edits.jsonl"
    append_entry(history, Limit(classes=CLASSES, others="none"))
    runs = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    assert main(["edit", str(pushed.folder), "--apply", str(history), "--out", str(runs[0])]) == 0
    assert f"limited: {SECOND}: prototypes of other classes say nothing about it" in capsys.readouterr().out
    assert read_history(runs[0] / "edits-applied.jsonl") == [Limit(classes=CLASSES, others="none")]
    limited = open_run(runs[0]).model
    is_own = limited.class_identity.T > 0
    assert not limited.last_layer.weight.detach()[~is_own].any()

    for run, entry in ((runs[1], Undo()), (runs[2], Limit(classes=(FIRST,), own="for"))):
        nothing = tmp_path / f"{run.name}.jsonl"
        append_entry(nothing, entry)
        assert main(["edit", str(runs[0]), "--apply", str(nothing), "--out", str(run)]) == 0
    assert torch.equal(open_run(runs[1]).model.last_layer.weight, limited.last_layer.weight)
    told = capsys.readouterr().out
    assert "say nothing about it" not in told
    assert f"limited: {SECOND}" not in told
