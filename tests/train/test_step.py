"""A step in parts, compiled, and in bfloat16: always the gradient of the mean loss of the whole batch."""

from __future__ import annotations

import functools

import pytest
import torch

from protokern.errors import ConfigError
from protokern.models.base import vectors_of
from protokern.ranks import SINGLE, Ranks, split_evenly
from protokern.runs.log import EpochRecord
from protokern.train.loop import train
from protokern.train.optimizers import freeze, share_batch_norms
from protokern.train.step import Forward, learn_from, make_forward

from .toy import Squares, pool_config, toy_config, toy_run

CPU = torch.device("cpu")


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    squares = Squares(count, seed=5)
    return squares.images, torch.tensor(squares.labels)


def gradients(tmp_path, config, count: int) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """The numbers and the gradients of one joint step."""
    model = toy_run(tmp_path, config).model
    freeze(model, "joint", config.train)
    model.set_progress(1.5)
    torch.manual_seed(7)
    loss = learn_from(model, make_forward(model, config.train), *batch(count), count, config.train, SINGLE).loss
    numbers = {"loss": loss.mean, **loss.terms, "correct": loss.correct, "images": loss.images}
    return numbers, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("make", [toy_config, functools.partial(pool_config, mixup=0.5)], ids=["protopnet", "pool"])
@pytest.mark.parametrize(("count", "parts"), [(7, 3), (2, 5)], ids=["unequal parts", "fewer images than parts"])
def test_parts_of_a_step_add_up_to_it(tmp_path, make, count, parts) -> None:
    whole, in_whole = gradients(tmp_path, make(batch_norm="frozen"), count)
    sums, in_parts = gradients(tmp_path, make(batch_norm="frozen", accumulation=parts), count)
    assert sums == pytest.approx(whole, rel=1e-5)
    assert sums["images"] == count
    assert in_parts.keys() == in_whole.keys()
    for name, gradient in in_whole.items():
        torch.testing.assert_close(in_parts[name], gradient, rtol=1e-4, atol=1e-6, msg=f"{name}: {{}}".format)


def test_a_compiled_step_is_the_step(tmp_path, monkeypatch) -> None:
    """With the backend that changes nothing: what is tested is that the forward pass can be traced, and is used."""
    used = []

    def backend(graph, inputs):
        used.append(graph)
        return graph

    plain, expected = gradients(tmp_path, toy_config(), 5)
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend=backend))
    numbers, compiled = gradients(tmp_path, toy_config(compile=True), 5)
    assert used
    assert numbers == pytest.approx(plain)
    torch.testing.assert_close(compiled, expected)


def test_in_bfloat16_the_prototypes_and_distances_stay_float32(tmp_path) -> None:
    config = toy_config(precision="bf16")
    model = toy_run(tmp_path, config).model
    seen = []
    model.add_on_layers.register_forward_hook(lambda *arguments: seen.append(arguments[-1].dtype))
    output = Forward(model, "bf16")(batch(3)[0])
    assert seen == [torch.bfloat16]
    assert {output.logits.dtype, output.min_distances.dtype, vectors_of(model).dtype} == {torch.float32}
    _, learnt = gradients(tmp_path, config, 3)
    assert {gradient.dtype for gradient in learnt.values()} == {torch.float32}


def test_a_run_in_parts_ends_as_one_without(tmp_path) -> None:
    def losses(parts: int) -> list[float]:
        run = toy_run(tmp_path / str(parts), toy_config(batch_norm="frozen", accumulation=parts))
        return [record.loss for record in train(run) if isinstance(record, EpochRecord)]

    assert losses(3) == pytest.approx(losses(1), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "ranks", "message"),
    [
        ({"accumulation": 2}, SINGLE, "train.accumulation: must be 1 while batch norms learn from the statistics"),
        ({}, Ranks(0, 2), 'train.batch_norm: must be "frozen" with 2 processes on a cpu'),
    ],
)
def test_batch_norms_that_cannot_see_the_whole_batch_are_refused(tmp_path, settings, ranks, message) -> None:
    config = toy_config(**settings)
    model = toy_run(tmp_path, config).model
    with pytest.raises(ConfigError, match=message):
        share_batch_norms(model, config.train, ranks, CPU)
    share_batch_norms(model, toy_config(**settings, batch_norm="frozen").train, ranks, CPU)
    share_batch_norms(model, toy_config(**settings, backbone="frozen").train, ranks, CPU)


def test_on_gpus_batch_norms_share_their_statistics_under_the_same_names(tmp_path) -> None:
    run = toy_run(tmp_path, toy_config())
    names = list(run.model.state_dict())
    share_batch_norms(run.model, run.job.train, Ranks(0, 2), torch.device("cuda"))
    kinds = {type(layer) for layer in run.model.modules()}
    assert torch.nn.SyncBatchNorm in kinds
    assert torch.nn.BatchNorm2d not in kinds
    assert list(run.model.state_dict()) == names
    run.model.eval()
    run.model(batch(2)[0])  # in evaluation they run anywhere


@pytest.mark.parametrize(("count", "parts"), [(0, 2), (1, 3), (5, 2), (6, 3), (7, 3)])
def test_parts_are_contiguous_and_differ_by_one_at_most(count, parts) -> None:
    cut = split_evenly(range(count), parts)
    assert len(cut) == parts
    assert [item for part in cut for item in part] == list(range(count))
    assert max(map(len, cut)) - min(map(len, cut)) <= 1
