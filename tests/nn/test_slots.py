"""The assignment of prototypes to slots: its schedule, its noise, and how it becomes final."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from protokern.nn import SlotAssignment


def assignment_of(logits: Tensor, **options: int) -> SlotAssignment:
    """An assignment with the presence logits `logits` (K, P, S)."""
    assignment = SlotAssignment(*logits.shape, **options)
    with torch.no_grad():
        assignment.presence_logits.copy_(logits)
    return assignment


def final(*rows: list[int], prototypes: int = 5) -> SlotAssignment:
    """A hardened assignment whose class k has the prototypes `rows[k]` in its slots."""
    slots = torch.tensor(rows)
    # The second-best choices do not matter: the rows have no repeats.
    assignment = assignment_of(F.one_hot(slots, prototypes).transpose(1, 2).float())
    assignment.harden()
    return assignment


def released_scale(epoch: int, epochs: int) -> float:
    """The schedule as the released program writes it."""
    start, end = 1.3, 1000.0
    alpha = (end / start) ** 2 / epochs
    return start * math.sqrt(alpha * epoch) if epoch < epochs else end


def test_logits_start_as_in_the_release():
    logits = SlotAssignment(40, 50, 10).presence_logits
    assert logits.shape == (40, 50, 10)
    assert logits.std().item() == pytest.approx(math.sqrt(2 / (50 * 10 + 40 * 10)), rel=0.02)
    assert logits.mean().item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("epochs", "epoch", "scale"),
    [(30, 0, 0), (30, 1, 182.5742), (30, 30, 1000), (30, 99, 1000), (1, 0, 0), (1, 1, 1000)],
)
def test_scale_follows_the_schedule(epochs, epoch, scale):
    assignment = SlotAssignment(2, 3, 2, schedule_epochs=epochs)
    assignment.set_progress(epoch)
    assert assignment.scale.item() == pytest.approx(scale)
    assert assignment.scale.item() == pytest.approx(released_scale(epoch, epochs))


def test_schedule_is_that_of_the_release_at_every_epoch():
    assignment = SlotAssignment(1, 1, 1)
    for epoch in range(40):
        assignment.set_progress(epoch)
        assert assignment.scale.item() == pytest.approx(released_scale(epoch, 30))


@pytest.mark.parametrize("train", [True, False])
def test_before_the_schedule_the_choice_is_a_plain_softmax(train):
    assignment = SlotAssignment(2, 4, 3).train(train)
    wanted = assignment.presence_logits.exp() / assignment.presence_logits.exp().sum(dim=1, keepdim=True)
    torch.testing.assert_close(assignment(), wanted)
    assignment.set_progress(3)
    assignment.set_progress(0)
    torch.testing.assert_close(assignment(), wanted)


def test_noise_is_drawn_anew_in_training_and_never_in_evaluation():
    assignment = SlotAssignment(2, 4, 3)
    assignment.set_progress(1)
    assert not torch.equal(assignment(), assignment())
    assignment.eval()
    before = torch.get_rng_state()
    torch.testing.assert_close(assignment(), (assignment.scale / 0.5 * assignment.presence_logits).softmax(dim=1))
    assert torch.equal(assignment(), assignment())
    assert torch.equal(torch.get_rng_state(), before)


def exponential_from_uniform(tensor: Tensor) -> Tensor:
    """Exponential numbers made of the uniform ones that our noise is made of, in the place of torch's own."""
    return tensor.copy_(-torch.rand(tensor.shape, dtype=tensor.dtype).log())


@pytest.mark.parametrize("schedule_epochs", [10**6, 10**4, 30], ids=["scale-1", "scale-10", "scale-183"])
def test_value_and_gradient_are_those_of_torchs_gumbel_softmax(schedule_epochs, monkeypatch):
    monkeypatch.setattr(Tensor, "exponential_", exponential_from_uniform)
    assignment = SlotAssignment(3, 5, 2, schedule_epochs=schedule_epochs)
    assignment.set_progress(1)
    logits = assignment.presence_logits.detach().clone().requires_grad_()
    torch.manual_seed(7)
    got = assignment()
    torch.manual_seed(7)
    scaled = (logits * 1000 / math.sqrt(schedule_epochs)).transpose(1, 2)
    wanted = F.gumbel_softmax(scaled, tau=0.5, dim=2).transpose(1, 2)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(got.sum(dim=1), torch.ones(3, 2))
    weight = torch.randn(3, 5, 2)
    (grad,) = torch.autograd.grad((got * weight).sum(), assignment.presence_logits)
    (wanted_grad,) = torch.autograd.grad((wanted * weight).sum(), logits)
    torch.testing.assert_close(grad, wanted_grad, rtol=1e-4, atol=1e-5)


def test_each_prototype_wins_as_often_as_its_probability_says():
    # The largest of logits with Gumbel noise is a draw from their softmax: here one for each of many equal classes.
    probability = torch.tensor([0.6, 0.3, 0.1])
    assignment = assignment_of(probability.log().expand(5000, 3)[..., None], schedule_epochs=10**6)
    assignment.set_progress(1)  # scale 1
    frequency = torch.bincount(assignment().argmax(dim=1).flatten(), minlength=3) / 5000
    torch.testing.assert_close(frequency, probability, rtol=0, atol=0.025)  # more than three standard deviations


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_largest_scale_stays_finite(dtype):
    assignment = SlotAssignment(3, 5, 2).to(dtype)
    assignment.set_progress(30)
    shares = assignment()
    assert shares.dtype == dtype
    assert shares.isfinite().all()
    shares.square().sum().backward()
    assert assignment.presence_logits.grad.isfinite().all()


def test_entropy_by_hand():
    shares = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]])  # of the two slots
    assignment = assignment_of(shares.log().T[None], schedule_epochs=10**6).train()
    torch.testing.assert_close(
        assignment.entropy(), torch.tensor([[1.5 * math.log(2), math.log(3)]]).double(), rtol=1e-6, atol=1e-6
    )
    assignment.set_progress(1)  # scale 1 at temperature 0.5: the shares are squared
    squared = -(2 / 3 * math.log(2 / 3) + 2 * 1 / 6 * math.log(1 / 6))
    torch.testing.assert_close(
        assignment.entropy(), torch.tensor([[squared, math.log(3)]]).double(), rtol=1e-6, atol=1e-6
    )
    assert assignment.training


def test_final_choices_have_no_entropy_and_are_one_hot():
    assignment = SlotAssignment(3, 6, 4)
    assert not assignment.is_hard
    assignment.harden()
    assert assignment.is_hard
    assert (assignment.entropy() == 0).all()
    shares = assignment()
    assert shares.dtype == torch.float32
    assert set(shares.unique().tolist()) == {0, 1}
    assert torch.equal(shares.sum(dim=1), torch.ones(3, 4))
    assert torch.equal(shares.argmax(dim=1), assignment.slots)
    assert torch.equal(assignment.choice, assignment.slots)
    assert not shares.requires_grad


def test_slots_that_want_different_prototypes_get_them():
    logits = torch.tensor([[[5.0, 1, 0], [0, 0, 7], [4, 2, 0], [0, 1, 6]]])  # prototypes in rows, slots in columns
    assignment = assignment_of(logits)
    assert assignment.choice.tolist() == [[0, 2, 1]]
    assignment.harden()
    assert assignment.slots.tolist() == [[0, 2, 1]]


def test_the_larger_logit_has_priority_and_the_other_slot_takes_its_next_best():
    # All slots want prototype 0, slot 1 most. Of the rest slot 2 wants prototype 2 more than slot 0 does.
    logits = torch.tensor([[[5.0, 9, 8], [1, 0, 0], [4, 8, 6], [3, 0, 5]]])
    assignment = assignment_of(logits)
    assert assignment.choice.tolist() == [[0, 0, 0]]
    assignment.harden()
    assert assignment.slots.tolist() == [[3, 0, 2]]


def greedy_slots(logits: list[list[float]]) -> list[int]:
    """For one class, logits[p][s]: pairs from the largest logit down, where prototype and slot are both still free."""
    pairs = sorted((-value, p, s) for p, row in enumerate(logits) for s, value in enumerate(row))
    slots = [-1] * len(logits[0])
    for _, p, s in pairs:
        if slots[s] == -1 and p not in slots:
            slots[s] = p
    return slots


@settings(max_examples=60)
@given(data=st.data())
def test_hardening_equals_the_plain_rule(data):
    num_classes, slots = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    prototypes = data.draw(st.integers(slots, 6))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    logits = torch.randint(-3, 3, (num_classes, prototypes, slots), generator=generator).float()  # with ties
    assignment = assignment_of(logits)
    assignment.harden()
    assert assignment.slots.tolist() == [greedy_slots(rows) for rows in logits.tolist()]
    assert assignment.use().repeated == ()


def test_hardening_is_final():
    assignment = SlotAssignment(2, 4, 2)
    assignment.harden()
    slots = assignment.slots.clone()
    with torch.no_grad():
        assignment.presence_logits.neg_()
    assignment.harden()
    assignment.set_progress(1)
    assert assignment.is_hard
    assert torch.equal(assignment.slots, slots)
    assert torch.equal(assignment.train()(), assignment.eval()())


def make_plain(assignment: SlotAssignment) -> None:
    assignment.set_progress(0)


def make_noisy(assignment: SlotAssignment) -> None:
    assignment.set_progress(2)


@pytest.mark.parametrize("prepare", [make_plain, make_noisy, SlotAssignment.harden])
@pytest.mark.parametrize("copied", [True, False], ids=["deepcopy", "state-dict"])
def test_state_holds_the_phase(copied, prepare):
    assignment = SlotAssignment(2, 5, 3)
    prepare(assignment)
    other = copy.deepcopy(assignment)
    if not copied:
        other = SlotAssignment(2, 5, 3)
        other.set_progress(9)
        other.load_state_dict({name: value.clone() for name, value in assignment.state_dict().items()})
    assert other.is_hard == assignment.is_hard
    assert other.scale == assignment.scale
    assert torch.equal(other.slots, assignment.slots)
    outputs = []
    for module in (assignment, other):
        torch.manual_seed(1)
        outputs.append(module())
    assert torch.equal(*outputs)
    assert torch.equal(other.eval()(), assignment.eval()())


def test_dropped_prototypes_leave_their_final_slots_empty():
    assignment = final([0, 1, 2], [4, 2, 3], [3, 1, 0])
    assignment.presence_logits.requires_grad_(False)
    before = assignment.presence_logits.clone()
    assignment.keep_prototypes(torch.tensor([3, 1, 2]))
    assert assignment.slots.tolist() == [[-1, 1, 2], [-1, 2, 0], [0, 1, -1]]
    assert torch.equal(assignment.presence_logits, before[:, [3, 1, 2]])
    assert not assignment.presence_logits.requires_grad
    shares = assignment()
    assert shares.shape == (3, 3, 3)
    assert shares.sum(dim=1).tolist() == [[0, 1, 1], [0, 1, 1], [1, 1, 0]]
    assert (assignment.entropy() == 0).all()
    assignment.keep_prototypes(torch.tensor([0]))  # empty slots stay empty
    assert assignment.slots.tolist() == [[-1, -1, -1], [-1, -1, 0], [0, -1, -1]]


def test_dropping_before_the_choices_are_final_drops_their_logits():
    assignment = SlotAssignment(2, 5, 2)
    wanted = assignment.presence_logits.detach()[:, [4, 0, 2]].softmax(dim=1)
    assignment.keep_prototypes(torch.tensor([4, 0, 2]))
    torch.testing.assert_close(assignment(), wanted)
    assignment.harden()
    assert assignment.slots.min() >= 0
    assert assignment.slots.max() <= 2


def test_a_pool_smaller_than_the_slots_leaves_some_empty():
    assignment = assignment_of(torch.tensor([[[1.0, 5, 3], [2, 4, 6], [0, 0, 0]], [[9, 1, 1], [8, 2, 1], [0, 0, 0]]]))
    assignment.keep_prototypes(torch.tensor([0, 1]))
    assignment.harden()
    assert assignment.slots.tolist() == [[-1, 0, 1], [0, 1, -1]]


def test_use_of_the_pool_by_hand():
    use = final([0, 3], [3, 1], [2, 0], prototypes=6).use()
    assert use.prototypes == ((0, 3), (3, 1), (2, 0))
    assert use.classes == ((0, 2), (1,), (2,), (0, 1), (), ())
    assert use.shared == (0, 3)
    assert use.unused == (4, 5)
    assert use.repeated == ()


def test_use_of_soft_choices_names_the_classes_that_repeat_a_prototype():
    assignment = assignment_of(F.one_hot(torch.tensor([[1, 1, 0], [0, 1, 2]]), 4).transpose(1, 2).float())
    use = assignment.use()
    assert use.prototypes == ((1, 0), (0, 1, 2))
    assert use.classes == ((0, 1), (0, 1), (1,), ())
    assert use.repeated == (0,)


def test_empty_slots_are_no_use_and_no_repetition():
    assignment = final([0, 1, 2], [3, 4, 2])
    assignment.keep_prototypes(torch.tensor([2]))
    use = assignment.use()
    assert use.prototypes == ((0,), (0,))
    assert use.classes == ((0, 1),)
    assert use.shared == (0,)
    assert use.unused == use.repeated == ()


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((0, 2, 2), {}, r"^num_classes: must be at least 1; got 0\. Give a positive number\.$"),
        ((2, 2, 0), {}, r"^slots_per_class: must be at least 1; got 0\. Give a positive number\.$"),
        ((2, 2, 2), {"schedule_epochs": 0}, r"^schedule_epochs: must be at least 1; got 0\. Give a positive number\.$"),
        (
            (2, 2, 3),
            {},
            r"^num_prototypes: must be at least slots_per_class = 3, since the slots of a class choose different "
            r"prototypes; got 2\. Give more prototypes or fewer slots\.$",
        ),
    ],
)
def test_wrong_sizes(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        SlotAssignment(*sizes, **options)
