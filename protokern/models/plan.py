"""The stages of a run in their order, which the loop follows, and the learning rates in each.

They are those of a model that does not have its own.

| stage | what happens |
| --- | --- |
| start | every prototype becomes a patch of a training image of its class, or stays as in another run (if asked for) |
| pretrain | of a PIP-Net: backbone and add-on layers learn from two views of each image, without labels |
| sheet | of a PIP-Net: only the scoring sheet learns |
| warm | add-on layers and prototypes learn; the backbone is frozen |
| joint | backbone, add-on layers and prototypes learn |
| hardening | as joint, after the choices of a model (ProtoPool's slots) were made final |
| push | every prototype becomes its nearest patch of a training image of its class, or of one of its classes |
| exemplars | of a PIP-Net, instead of a push: the training patches in which every prototype is most present are found |
| live | add-on layers and last layer learn; every prototype stays that patch, as the add-on layers see it |
| last_layer | the last layer learns on fixed activations |
| joint, push, live, last_layer | again, as push_start and push_every say; a push always follows the last epoch |
| prune | prototypes are removed that the answers do not need, or by the paper's rule (if asked for) |
| pruned_last_layer | the last layer learns again |

Only models that make choices have a hardening stage, and a single push, which follows it. A live stage, if asked for,
follows every push, so that the best of several pushes is chosen by the result of its live stage. Without warm and joint
epochs the live stage follows the start: prototypes are then patches all the time, and there is no push.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from protokern.results.stages import Stage

# In epochs, over the training images.
LEARNING: tuple[Stage, ...] = ("pretrain", "sheet", "warm", "joint", "hardening", "live")


class PruneSettings(Protocol):
    """What the plan reads of the settings of the pruning."""

    @property
    def enabled(self) -> bool: ...


class TrainSettings(Protocol):
    """What the plan and the learning rates read of the settings of the training, `TrainConfig`."""

    @property
    def prototype_start(self) -> Literal["random", "patches", "kept"]: ...
    @property
    def backbone(self) -> Literal["train", "frozen"]: ...
    @property
    def warm_epochs(self) -> int: ...
    @property
    def joint_epochs(self) -> int: ...
    @property
    def hardening_epochs(self) -> int: ...
    @property
    def live_epochs(self) -> int: ...
    @property
    def push_start(self) -> int: ...
    @property
    def push_every(self) -> int: ...
    @property
    def backbone_lr(self) -> float: ...
    @property
    def add_on_lr(self) -> float: ...
    @property
    def prototype_lr(self) -> float: ...
    @property
    def last_layer_lr(self) -> float: ...
    @property
    def joint_last_layer_lr(self) -> float: ...
    @property
    def live_lr(self) -> float | Literal["auto"]: ...
    @property
    def live_last_layer_lr(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of the plan; a checkpoint follows each.

    Attributes:
        stage: what happens.
        epoch: 0-based over warm, joint and hardening; the epochs of live stages continue the count. The other stages
            have the epoch that they follow.
        live_epoch: 0-based within its live stage.
    """

    stage: Stage
    epoch: int
    live_epoch: int = 0

    @property
    def name(self) -> str:
        """The name of the step's checkpoint folder."""
        return f"{self.stage}-{self.epoch}"


def plan(
    train: TrainSettings, prune: PruneSettings, *, chooses: bool = False, prunes_before_push: bool = False
) -> tuple[Step, ...]:
    """All steps of a run in order; `chooses` and `prunes_before_push` as in `PrototypeModel`."""
    steps: list[Step] = [Step("start", 0)] if train.prototype_start != "random" else []
    soft_epochs = train.warm_epochs + train.joint_epochs
    last_epoch = soft_epochs + (train.hardening_epochs if chooses else 0) - 1
    next_live = last_epoch + 1
    if last_epoch < 0:
        steps += [*(Step("live", epoch, epoch) for epoch in range(train.live_epochs)), Step("last_layer", 0)]
    for epoch in range(last_epoch + 1):
        learning: Stage = "warm" if epoch < train.warm_epochs else "joint" if epoch < soft_epochs else "hardening"
        steps.append(Step(learning, epoch))
        pushes_once = chooses or prunes_before_push
        if epoch == last_epoch or (is_push_epoch(epoch, train) and not pushes_once):
            if prune.enabled and prunes_before_push:
                steps.append(Step("prune", epoch))
            live = [Step("live", next_live + live_epoch, live_epoch) for live_epoch in range(train.live_epochs)]
            steps += [Step("push", epoch), *live, Step("last_layer", epoch)]
            next_live += train.live_epochs
    if prune.enabled and not (prunes_before_push and last_epoch >= 0):
        steps += [Step("prune", max(last_epoch, 0)), Step("pruned_last_layer", max(last_epoch, 0))]
    return tuple(steps)


def learning_rates(stage: Stage, train: TrainSettings, *, choices: tuple[str, ...] = ()) -> dict[str, float]:
    """The base learning rate of each part of a model in a stage; a part without a rate is frozen.

    `choices` are the parts that only this kind of model has. They learn until the choices are final.
    """
    if stage in ("last_layer", "pruned_last_layer"):
        return {"last_layer": train.last_layer_lr}
    if stage == "live":
        after_push = train.add_on_lr / 10 if train.warm_epochs + train.joint_epochs else train.add_on_lr
        rates = {"add_on_layers": after_push if train.live_lr == "auto" else train.live_lr}
        return rates | ({"last_layer": train.live_last_layer_lr} if train.live_last_layer_lr > 0 else {})
    if stage not in ("warm", "joint", "hardening"):
        return {}
    rates = {"add_on_layers": train.add_on_lr, "prototype_layer": train.prototype_lr}
    if stage != "warm":
        if train.backbone == "train":
            rates = {"backbone": train.backbone_lr, **rates}
        if train.joint_last_layer_lr > 0:
            rates["last_layer"] = train.joint_last_layer_lr
    if stage != "hardening":
        rates |= dict.fromkeys(choices, train.prototype_lr)
    return rates


def is_push_epoch(epoch: int, train: TrainSettings) -> bool:
    """Whether a push follows this epoch, which is not the last one."""
    since_start = epoch - train.push_start
    return epoch >= train.warm_epochs and since_start >= 0 and since_start % train.push_every == 0


def skip_after_early_stop(steps: tuple[Step, ...], position: int) -> int:
    """The step that follows an early stop: the hardening if it is still to come, otherwise the last push, or the
    pruning before it."""
    stages = [step.stage for step in steps]
    if "hardening" in stages[position:] and stages[position - 1] == "joint":
        return stages.index("hardening")
    pushes = [index for index, stage in enumerate(stages) if stage == "push"]
    last = pushes[-1] - 1 if stages[pushes[-1] - 1] == "prune" else pushes[-1]
    return max(position, last)
