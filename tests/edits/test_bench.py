"""Edits on a small pushed run, against activations of whole images and a last layer that is solved apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from protokern.cli.main import main
from protokern.edits.bench import Bench, EditedNet
from protokern.edits.history import append_entry, settle
from protokern.edits.records import Add, Assign, EditError, Forbid, Keep, Replace, Undo
from protokern.explain.prototypes import write_prototypes
from protokern.models.base import vectors_of
from protokern.runs.features import find_inputs
from protokern.runs.open import OpenRun, open_run
from protokern.solvers.last_layer import LastLayerInputs, solve_last_layer
from tests.cli.pushed_run import CLASSES, PushedRun, make_pool_run, make_run

IMAGE = f"train/{CLASSES[1]}/2.png"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    run = make_run(tmp_path_factory.mktemp("edits"))
    write_prototypes(run.folder, run.model, run.splits, run.push)
    return run


@pytest.fixture(scope="module")
def opened(pushed: PushedRun) -> OpenRun:
    return open_run(pushed.folder)


@pytest.fixture(scope="module")
def bench(opened: OpenRun, pushed: PushedRun) -> Bench:
    return Bench(opened, find_inputs(opened, pushed.splits))


def apply(bench: Bench, *entries) -> EditedNet:
    return bench.apply(settle(entries))


def images_of(split) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([split[i][0] for i in range(len(split))]), torch.tensor(split.labels)


def check(net: EditedNet, opened: OpenRun, pushed: PushedRun) -> None:
    """The last layer is the solution for the activations of the images themselves, and the numbers are the model's."""
    splits = pushed.splits
    with torch.no_grad():
        outputs = [net.model(images_of(split)[0]) for split in (splits.push, splits.val)]
        before = opened.model(images_of(splits.val)[0]).logits.argmax(1)
    train, val = (
        LastLayerInputs(output.activations, images_of(split)[1])
        for output, split in zip(outputs, (splits.push, splits.val), strict=True)
    )
    after = outputs[1].logits.argmax(1)
    assert net.val_after.accuracy == pytest.approx(float((after == val.labels).double().mean()))
    assert net.val_before.accuracy == pytest.approx(float((before == val.labels).double().mean()))
    assert [(one.image, one.before, one.after) for one in net.changed] == [
        (i, int(before[i]), int(after[i])) for i in range(len(after)) if before[i] != after[i]
    ]
    if net.solved is not None:
        again = apply(Bench(opened, find_inputs(opened, splits))).model
        again.set_prototypes(vectors_of(net.model).detach(), net.model.class_identity, start_of(net))
        solve_last_layer(again, train, val, opened.config.train)
        torch.testing.assert_close(again.last_layer.weight, net.model.last_layer.weight, rtol=1e-3, atol=1e-3)


def start_of(net: EditedNet) -> torch.Tensor:
    """Any start is near enough: the ridge is small, and the solver convex."""
    return net.model.last_layer.weight.detach()


def test_without_edits_the_net_stays_as_it_is(bench: Bench, opened: OpenRun) -> None:
    for entries in ((), (Forbid(prototype=1), Undo()), (Forbid(prototype=1), Keep(prototype=1))):
        net = apply(bench, *entries)
        assert net.solved is None
        assert net.changed == ()
        assert all(torch.equal(one, net.model.state_dict()[key]) for key, one in opened.model.state_dict().items())


def test_a_forbidden_prototype_is_gone(bench: Bench, opened: OpenRun, pushed: PushedRun) -> None:
    net = apply(bench, Forbid(prototype=1, reason="a sticker"))
    assert [one.number for one in net.prototypes] == [0, 2, 3, 4, 5]
    assert [(one.number, one.forbidden.reason) for one in net.forbidden] == [(1, "a sticker")]
    old = vectors_of(opened.model)
    assert torch.equal(vectors_of(net.model), old[[0, 2, 3, 4, 5]])
    assert net.push.image.tolist() == pushed.push.image[[0, 2, 3, 4, 5]].tolist()
    check(net, opened, pushed)


def test_a_replaced_and_an_added_prototype_are_patches_of_the_image(
    bench: Bench, opened: OpenRun, pushed: PushedRun
) -> None:
    net = apply(
        bench,
        Replace(prototype=4, image=IMAGE, patch=(1, 2)),
        Add(classes=CLASSES, image=IMAGE, patch=(3, 0)),
        Assign(prototype=0, classes=(CLASSES[1],)),
    )
    names = [pushed.splits.push.sample_name(i) for i in range(len(pushed.splits.push))]
    image = names.index(IMAGE)
    with torch.no_grad():
        features = opened.model.features(pushed.splits.push[image][0][None])[0]
        distance = net.model(pushed.splits.push[image][0][None]).min_distances[0]
    torch.testing.assert_close(vectors_of(net.model)[4], features[:, 1, 2])
    torch.testing.assert_close(vectors_of(net.model)[6], features[:, 3, 0])
    assert distance[[4, 6]].max() < 1e-6
    assert net.model.class_identity.tolist() == [[0, 1], [1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [1, 1]]
    assert net.push.image[[4, 6]].tolist() == [image, image]
    assert net.push.patch[[4, 6]].tolist() == [1 * net.push.grid[1] + 2, 3 * net.push.grid[1]]
    check(net, opened, pushed)


def test_numbers_of_added_prototypes_stay_when_others_are_undone(bench: Bench) -> None:
    add = [Add(classes=(CLASSES[0],), image=IMAGE, patch=(0, column)) for column in range(2)]
    net = apply(bench, add[0], Undo(), add[1], Forbid(prototype=7))
    assert [one.number for one in net.forbidden] == [7]
    with pytest.raises(EditError, match="edit 3, 'forbid': prototype must be a number of the net; got 6"):
        apply(bench, add[0], Undo(), add[1], Forbid(prototype=6))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Forbid(prototype=6), "edit 1, 'forbid': prototype must be a number of the net; got 6"),
        (Replace(prototype=0, image="train/x.png", patch=(0, 0)), "image must be the name of a training image"),
        (
            Replace(prototype=0, image=IMAGE, patch=(99, 0)),
            r"patch must be in the grid of 4 x 4 patches; got \[99, 0\]",
        ),
        (Assign(prototype=0, classes=("nothing",)), "classes must be classes of the net; got 'nothing'"),
    ],
)
def test_edits_that_do_not_fit_are_named(bench: Bench, edit, message: str) -> None:
    with pytest.raises(EditError, match=message):
        apply(bench, edit)


def test_a_net_without_prototypes_is_refused(bench: Bench) -> None:
    with pytest.raises(EditError, match="must leave a prototype"):
        apply(bench, *(Forbid(prototype=j) for j in range(6)))


def test_a_class_without_prototypes_is_told(bench: Bench) -> None:
    assert apply(bench, *(Forbid(prototype=j) for j in range(3))).empty_classes == (0,)


@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
def test_other_models_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = make_pool_run(tmp_path)
    append_entry(tmp_path / "edits.jsonl", Forbid(prototype=0))
    out = tmp_path / "edited"
    assert main(["edit", str(pool.folder), "--apply", str(tmp_path / "edits.jsonl"), "--out", str(out)]) == 2
    assert "must be of a model whose prototypes are patches with weights, a ProtoPNet; got a ProtoPool" in (
        capsys.readouterr().err
    )
    assert not out.exists()


def test_the_command_writes_a_run_that_other_commands_open(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history, before = tmp_path / "edits.jsonl", sorted(pushed.folder.rglob("*"))
    edits = (
        Forbid(prototype=1, reason="a\n\x1b[31m sticker"),
        Add(classes=CLASSES, image=IMAGE, patch=(3, 0)),
        Add(classes=CLASSES[:1], image=IMAGE, patch=(2, 0)),
    )
    for edit in edits:
        append_entry(history, edit)
    runs = [tmp_path / "one", tmp_path / "two"]
    for run in runs:
        assert main(["edit", str(pushed.folder), "--apply", str(history), "--out", str(run)]) == 0
    told = capsys.readouterr().out
    assert "prototypes: 7, 1 forbidden" in told
    assert f"forbidden: prototype 1 of {CLASSES[0]}: a \\x1b[31m sticker\n" in told  # steers no terminal
    assert sorted(pushed.folder.rglob("*")) == before
    one, two = (open_run(run).model.state_dict() for run in runs)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert len(open_run(runs[0]).model.class_identity) == 7
    assert (runs[0] / "edits-applied.jsonl").read_bytes() == history.read_bytes()

    assert main(["evaluate", str(runs[0])]) == 0
    accuracy = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["accuracy"]
    assert f"test: {accuracy:.1%} of 8 images" in told
    photo = pushed.data / "test" / CLASSES[0] / "0.png"
    assert main(["explain", str(runs[0]), str(photo), "--out", str(tmp_path / "why")]) == 0
    assert "looks like prototype" in capsys.readouterr().out
    assert main(["edit", str(pushed.folder), "--apply", str(history), "--out", str(runs[0])]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_a_missing_file_of_edits_is_one_line(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edit", str(pushed.folder), "--apply", str(tmp_path / "no"), "--out", str(tmp_path / "x")]) == 2
    assert "--apply: must be a file of edits" in capsys.readouterr().err
