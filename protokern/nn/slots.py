"""Which prototypes of a pool are in the slots of each class: soft and learnt first, then final."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMPTY = -1
TEMPERATURE = 0.5
FULL_SCALE = 1000.0  # of the logits, at the end of the schedule
_PHASES = ("plain", "gumbel", "hard")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUse:
    """How a pool of prototypes is used by the classes.

    Attributes:
        prototypes: for every class, the prototypes in its slots, each once, in the order of the slots.
        classes: for every prototype, the classes that use it, ascending.
        shared: prototypes that more than one class uses.
        unused: prototypes that no class uses.
        repeated: classes with one prototype in several slots.
    """

    prototypes: tuple[tuple[int, ...], ...]
    classes: tuple[tuple[int, ...], ...]
    shared: tuple[int, ...]
    unused: tuple[int, ...]
    repeated: tuple[int, ...]


class SlotAssignment(nn.Module):
    """Every class has S slots, and every slot chooses one of P prototypes.

    Args:
        num_classes: K, >= 1.
        num_prototypes: P, at least S, since the slots of a class choose different prototypes.
        slots_per_class: S, >= 1.
        schedule_epochs: epochs until the scale of the logits is at its largest, >= 1.

    Attributes:
        presence_logits: parameter (K, P, S).
        slots: buffer (K, S) int64: the final choices, -1 where a slot is empty; valid once `is_hard`.

    Raises:
        ValueError: an argument is out of range.

    Source: Rymarczyk et al. 2022 (ProtoPool), section 3.1; scale, temperature and schedule of the released program.
    """

    def __init__(
        self, num_classes: int, num_prototypes: int, slots_per_class: int, *, schedule_epochs: int = 30
    ) -> None:
        super().__init__()
        _check(num_classes, num_prototypes, slots_per_class, schedule_epochs)
        self.presence_logits = nn.Parameter(torch.empty(num_classes, num_prototypes, slots_per_class))
        nn.init.xavier_normal_(self.presence_logits)
        self.register_buffer("slots", torch.full((num_classes, slots_per_class), EMPTY))
        # A tensor, so that a new scale does not make torch.compile compile again.
        self.register_buffer("scale", torch.zeros(()))
        self.schedule_epochs = schedule_epochs
        self._phase = "plain"

    slots: Tensor
    scale: Tensor

    @property
    def is_hard(self) -> bool:
        """Whether the choices are final."""
        return self._phase == "hard"

    @property
    def choice(self) -> Tensor:
        """(K, S) int64, the prototype of each slot: the final ones, before that those of the largest logits."""
        return self.slots if self.is_hard else self.presence_logits.argmax(dim=1)

    def set_progress(self, epochs: float) -> None:
        """Set the scale of the logits after this many epochs: 1000 sqrt(epochs / schedule_epochs), at most 1000.

        At 0 epochs the scale is 0, which stands for a plain softmax without noise, as in the released program.
        """
        if self.is_hard:
            return
        self.scale.fill_(FULL_SCALE * min(1.0, math.sqrt(epochs / self.schedule_epochs)))
        self._phase = "plain" if epochs == 0 else "gumbel"

    def forward(self) -> Tensor:
        """How much of each prototype is in each slot, (K, P, S); every slot sums to 1, or to 0 if it is empty.

        In training the soft choices are drawn with new Gumbel noise at every call; in evaluation there is no noise.
        """
        if self.is_hard:
            return self._one_hot()
        if self._phase == "plain":
            return self.presence_logits.transpose(1, 2).softmax(dim=2).transpose(1, 2)
        noise = gumbel_noise(self.presence_logits.transpose(1, 2)) if self.training else None
        return _soft_choice(self.presence_logits, self.scale, noise).transpose(1, 2)

    def _one_hot(self) -> Tensor:
        count = self.presence_logits.shape[1]
        is_chosen = self.slots[:, None, :] == torch.arange(count, device=self.slots.device)[:, None]
        return is_chosen.to(self.presence_logits.dtype)

    @torch.no_grad()
    def entropy(self) -> Tensor:
        """Entropy of every slot's choice without noise, (K, S), in nats; 0 for a final choice or an empty slot."""
        was_training = self.training
        self.eval()
        share = self().double()
        self.train(was_training)
        return torch.special.entr(share).sum(dim=1)

    @torch.no_grad()
    def harden(self) -> None:
        """Make the choices final: each slot keeps the prototype of its largest logit, and no class repeats one.

        If two slots of a class want the same prototype, the slot with the larger logit gets it and the other takes its
        next best. In a pool that was pruned to fewer than S prototypes, slots that find none stay empty.
        """
        if self.is_hard:
            return
        logits = self.presence_logits.detach().cpu().clone()  # (K, P, S)
        slots = torch.full(self.slots.shape, EMPTY)
        classes = torch.arange(len(logits))
        for _ in range(min(logits.shape[1:])):
            best = logits.flatten(1).argmax(dim=1)
            prototype, slot = best // logits.shape[2], best % logits.shape[2]
            slots[classes, slot] = prototype
            logits[classes, prototype, :] = -torch.inf
            logits[classes, :, slot] = -torch.inf
        self.slots.copy_(slots)
        self._phase = "hard"

    def keep_prototypes(self, index: Tensor) -> None:
        """Drop all prototypes but those in `index` (P',) int64; final slots of dropped ones become empty."""
        count = self.presence_logits.shape[1]
        kept = self.presence_logits.detach()[:, index].clone()
        self.presence_logits = nn.Parameter(kept, requires_grad=self.presence_logits.requires_grad)
        new_place = torch.full((count + 1,), EMPTY, device=self.slots.device)  # the last entry is for empty slots
        new_place[index] = torch.arange(len(index), device=self.slots.device)
        self.slots = new_place[self.slots]

    def use(self) -> PoolUse:
        """Which prototypes each class uses, and which are shared and which unused."""
        count = self.presence_logits.shape[1]
        rows = [[p for p in row if p != EMPTY] for row in self.choice.tolist()]
        classes = tuple(tuple(k for k, row in enumerate(rows) if p in row) for p in range(count))
        return PoolUse(
            prototypes=tuple(tuple(dict.fromkeys(row)) for row in rows),
            classes=classes,
            shared=tuple(p for p, users in enumerate(classes) if len(users) > 1),
            unused=tuple(p for p, users in enumerate(classes) if not users),
            repeated=tuple(k for k, row in enumerate(rows) if len(set(row)) < len(row)),
        )

    def get_extra_state(self) -> Tensor:
        """The phase, as state dicts hold it."""
        return torch.tensor(_PHASES.index(self._phase))

    def set_extra_state(self, state: Tensor) -> None:
        """The opposite of `get_extra_state`."""
        self._phase = _PHASES[int(state)]


def gumbel_noise(logits: Tensor) -> Tensor:
    """Standard Gumbel noise in the shape of `logits`: -log(-log(u)) of a uniform u in [0, 1).

    `Tensor.exponential_` draws -log(u) in double precision, which takes several times as long.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)  # a u of few bits would cut off the tail
    return torch.rand(logits.shape, dtype=dtype, device=logits.device).log_().neg_().log_().neg_()


def _soft_choice(presence_logits: Tensor, scale: Tensor, noise: Tensor | None) -> Tensor:
    """Shares (K, S, P) of the prototypes: softmax over P of (logits (K, P, S) * scale + noise (K, S, P)) / TEMPERATURE.

    A share below 1e-19 of the largest (in float32: the root of the smallest normal number) is 0. Such shares change no
    sum, but they and their products with gradients are denormal, and processors take a hundred times as long for those.
    """
    # The sums run over the last, contiguous dimension.
    logits = presence_logits.transpose(1, 2).contiguous() * (scale / TEMPERATURE)
    if noise is not None:
        logits = torch.add(logits, noise, alpha=1 / TEMPERATURE)
    logits = logits.sub_(logits.detach().amax(2, keepdim=True))
    smallest = math.log(torch.finfo(logits.dtype).tiny) / 2
    with torch.no_grad():  # where a share is 0, so is the gradient of the softmax
        F.threshold(logits, smallest, -torch.inf, inplace=True)
    return logits.softmax(2).to(presence_logits.dtype)


def _check(num_classes: int, num_prototypes: int, slots_per_class: int, schedule_epochs: int) -> None:
    sizes = {"num_classes": num_classes, "slots_per_class": slots_per_class, "schedule_epochs": schedule_epochs}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}: must be at least 1; got {value}. Give a positive number.")
    if num_prototypes < slots_per_class:
        raise ValueError(
            f"num_prototypes: must be at least slots_per_class = {slots_per_class}, since the slots of a class choose "
            f"different prototypes; got {num_prototypes}. Give more prototypes or fewer slots."
        )
