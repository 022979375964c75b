"""Settings of training and pruning. `protokern.config` reads them from TOML.

The defaults are ProtoPNet's own: coefficients, learning rates, schedule and push epochs of the released program. Only
the last layer is solved as a convex problem instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import ConfigDict

from protokern.choices import MOST_EPOCHS
from protokern.errors import require, require_number

if TYPE_CHECKING:
    from protokern.losses import LossCoefficients

LONGEST_RIDGE_PATH = 8
LEAST_MIXUP = 1e-30  # a smaller parameter of the Beta distribution does not fit into float32
LARGEST_RATE = 1e30  # a step of Adam with a larger one does not fit into float32


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How the net is trained.

    Attributes:
        seed: seed of the random numbers of Python, NumPy, torch and the loader's workers.
        batch_size: images in a step, of all processes together; at least 2 if batch norms learn and see a single patch.
        backbone: "train": the backbone learns in the joint stage; "frozen": it never learns. A frozen backbone runs
            once over the images without augmentation, and every stage reads its features from the disk, see
            `data.feature_store`.
        prototype_start: "random", as the model initialises them; "patches": patches of training images of their class
            that together cover what the class looks like; or "kept": those of the run that `train --resume-from` names.
            With the last two, live epochs can follow at once, without warm and joint epochs.
        warm_epochs: epochs with the backbone frozen.
        joint_epochs: epochs in which everything but the last layer learns.
        hardening_epochs: epochs like the joint ones after the choices of a model have been made final; for models that
            choose prototypes (ProtoPool).
        live_epochs: epochs after each push in which add-on layers and last layer learn and every prototype stays its
            patch, as the current add-on layers see it; 0: none, as in the original.
        live_lr: learning rate of the add-on layers in the live epochs; "auto": a tenth of `add_on_lr` after a push,
            `add_on_lr` without warm and joint epochs. It falls linearly to zero, and so does `live_last_layer_lr`.
        live_last_layer_lr: learning rate of the last layer in the live epochs; 0: it does not learn.
        push_start: first epoch, counted from 0 over warm and joint, that a push follows.
        push_every: epochs from one push to the next. A push always follows the last epoch, and is the only one of a
            model that chooses prototypes.
        last_layer_solver: how the last layer learns after a push, and again after pruning. "convex" solves it to
            `last_layer_gap`; "compat" takes the small steps of the released program, `last_layer_epochs` at
            `last_layer_lr`.
        last_layer_gap: with "convex": relative gap to the minimum at which the solver stops, in (0, 1).
        last_layer_ridge: with "convex": how firmly weights to own classes are held at their starting values; without it
            they could grow without limit.
        last_layer_ridge_path: with "convex": number of ridge strengths to try, `last_layer_ridge` first and each a
            tenth of the one before; the cross entropy on the validation split chooses.
        last_layer_bound: with "convex": largest absolute weight from a prototype to a class that is not its own. The
            paper's program starts these weights at -0.5, and their size stays below that; without a bound they grow to
            tens if a class has few images. A large number, such as 1e9, means no bound.
        last_layer_path: with "convex": number of L1 strengths to try, from the one that leaves no weight to another
            class down to `l1`; the validation split chooses. 1: `l1` alone.
        last_layer_own: with "convex": "free", or "non_negative": weights to own classes are not below zero, so no
            prototype speaks against its own class.
        last_layer_others: with "convex": weights to other classes. "path": those that are best on the validation split
            along the path; "needed": as few as the validation split allows, possibly none: the fewest along the path
            whose accuracy is within half a standard error of the best; "none": all zero.
        last_layer_epochs: with "compat": passes over the cached activations.
        patience: joint epochs without a better validation accuracy before training moves on to the hardening, or to its
            last push; 0: no limit.
        optimizer: "adam" (weight decay is added to the gradient, as in the original) or "adamw" (decoupled).
        backbone_lr, add_on_lr, prototype_lr: learning rates in the warm, joint and hardening stages. Parts that only
            one kind of model has, such as ProtoPool's slots, learn at `prototype_lr`.
        joint_last_layer_lr: learning rate of the last layer in the joint stage; 0: it does not learn then, as in the
            original.
        last_layer_lr: with "compat": learning rate of the last layer.
        weight_decay: weight decay of the backbone and the add-on layers; prototypes and last layer have none.
        schedule: schedule of the joint learning rates: "constant"; "step" multiplies by `step_gamma` every `step_size`
            epochs; "linear" and "cosine" fall to zero over the joint and the hardening epochs, batch by batch.
        step_size, step_gamma: with schedule "step": epochs between two steps, and the factor of a step.
        cross_entropy, cluster, separation, l1, orthogonality: coefficients of the loss terms; that of the separation is
            negative. A model uses those that its loss has.
        forbidden: coefficient of the similarity to what was forbidden in the run that `train --resume-from` names; 0:
            it may come back.
        label_smoothing: label smoothing of the cross entropy, in [0, 1).
        mixup: images are mixed in pairs, with shares drawn from Beta(mixup, mixup); 0: not at all; "auto": as in the
            paper of the model, 0.5 for ProtoPool and 0 for ProtoPNet.
        gradient_clip: largest norm of the whole gradient; 0: no clipping.
        precision: precision of the backbone and the add-on layers in training. "bf16" runs them under autocast; the
            prototype layer, evaluation, push and explanations are always float32.
        frozen_layers: submodules of the backbone that never learn, each with everything below it, such as "body.stem"
            or "body.blocks.3". Early layers of a pretrained net change little and cost most of the backward pass.
        batch_norm: "train": batch norms of the layers that learn use and update the statistics of the batch, as in the
            original; "frozen": those of the backbone keep their pretrained statistics.
        accumulation: number of parts into which a process divides its images of a step, to need less memory. The step
            remains one of `batch_size` images.
        compile: use `torch.compile` for the forward pass of the training; the first steps then take minutes.
        channels_last: hold images and convolution weights channels last, which is faster on most devices.
        feature_cache_mb: memory for the features of the frozen backbone (MiB) around a push. If the features of a data
            set do not fit, the data set goes through the backbone once more for every pass.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    seed: int = 0
    batch_size: int = 80
    backbone: Literal["train", "frozen"] = "train"
    prototype_start: Literal["random", "patches", "kept"] = "random"
    warm_epochs: int = 5
    joint_epochs: int = 26
    hardening_epochs: int = 2
    live_epochs: int = 0
    live_lr: float | Literal["auto"] = "auto"
    live_last_layer_lr: float = 1e-3
    push_start: int = 10
    push_every: int = 10
    last_layer_solver: Literal["convex", "compat"] = "convex"
    last_layer_gap: float = 1e-4
    last_layer_ridge: float = 1e-2
    last_layer_ridge_path: int = 1
    last_layer_bound: float = 0.5
    last_layer_path: int = 10
    last_layer_own: Literal["free", "non_negative"] = "free"
    last_layer_others: Literal["path", "needed", "none"] = "path"
    last_layer_epochs: int = 20
    patience: int = 10
    optimizer: Literal["adam", "adamw"] = "adam"
    backbone_lr: float = 1e-4
    add_on_lr: float = 3e-3
    prototype_lr: float = 3e-3
    joint_last_layer_lr: float = 0.0
    last_layer_lr: float = 1e-4
    weight_decay: float = 1e-3
    schedule: Literal["constant", "step", "linear", "cosine"] = "step"
    step_size: int = 5
    step_gamma: float = 0.1
    cross_entropy: float = 1.0
    cluster: float = 0.8
    separation: float = -0.08
    l1: float = 1e-4
    orthogonality: float = 1.0
    forbidden: float = 1.0
    label_smoothing: float = 0.0
    mixup: float | Literal["auto"] = "auto"
    gradient_clip: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    frozen_layers: tuple[str, ...] = ()
    batch_norm: Literal["train", "frozen"] = "train"
    accumulation: int = 1
    compile: bool = False
    channels_last: bool = True
    feature_cache_mb: int = 2048

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", "from 0 to 4294967295", self.seed)
        require_number(self, "batch_size", "push_every", "step_size", "accumulation", minimum=1)
        require_number(self, "warm_epochs", "joint_epochs", "push_start", "last_layer_epochs", "patience")
        require_number(self, "hardening_epochs", "live_epochs")
        for name in ("warm_epochs", "joint_epochs", "hardening_epochs", "live_epochs", "last_layer_epochs"):
            require(getattr(self, name) <= MOST_EPOCHS, name, f"at most {MOST_EPOCHS}", getattr(self, name))
        require_number(self, "feature_cache_mb")
        if self.warm_epochs + self.joint_epochs == 0:
            is_live = self.prototype_start != "random" and self.live_epochs > 0
            wanted = "at least 1 when warm_epochs is 0, unless prototype_start is "
            wanted += '"patches" or "kept" and there are live_epochs'
            require(is_live, "joint_epochs", wanted, 0)
        rates = ["backbone_lr", "add_on_lr", "prototype_lr", "joint_last_layer_lr", "last_layer_lr", "weight_decay"]
        rates += ["live_last_layer_lr"] if self.live_lr == "auto" else ["live_lr", "live_last_layer_lr"]
        require_number(self, *rates)
        for name in rates:
            require(getattr(self, name) <= LARGEST_RATE, name, f"at most {LARGEST_RATE:g}", getattr(self, name))
        require_number(self, "gradient_clip", "cross_entropy", "cluster", "l1", "orthogonality", "forbidden")
        if self.mixup != "auto":
            require_number(self, "mixup")
            in_range = self.mixup == 0 or LEAST_MIXUP <= self.mixup <= LARGEST_RATE
            require(in_range, "mixup", f"0, or from {LEAST_MIXUP:g} to {LARGEST_RATE:g}", self.mixup)
        require(0 < self.last_layer_gap < 1, "last_layer_gap", "between 0 and 1", self.last_layer_gap)
        require(0 < self.last_layer_ridge < math.inf, "last_layer_ridge", "greater than 0", self.last_layer_ridge)
        require_number(self, "last_layer_bound", above=True)
        require_number(self, "last_layer_path", "last_layer_ridge_path", minimum=1)
        longest = f"at most {LONGEST_RIDGE_PATH}: the last ridge would be far below rounding"
        require(
            self.last_layer_ridge_path <= LONGEST_RIDGE_PATH,
            "last_layer_ridge_path",
            longest,
            self.last_layer_ridge_path,
        )
        if self.last_layer_solver == "convex":
            require(self.l1 > 0, "l1", 'greater than 0 with last_layer_solver = "convex"', self.l1)
        else:
            for name, value in (("last_layer_own", "free"), ("last_layer_others", "path")):
                wanted = f'"{value}" with last_layer_solver = "compat"'
                require(getattr(self, name) == value, name, wanted, getattr(self, name))
        require(0 < self.step_gamma <= 1, "step_gamma", "greater than 0 and at most 1", self.step_gamma)
        require(-math.inf < self.separation <= 0, "separation", "0 or negative", self.separation)
        require(
            0 <= self.label_smoothing < 1, "label_smoothing", "from 0 up to, not including, 1", self.label_smoothing
        )

    @property
    def coefficients(self) -> LossCoefficients:
        """The coefficients of the loss terms."""
        from protokern.losses import LossCoefficients  # with torch, which takes seconds: settings are checked without

        return LossCoefficients(
            cross_entropy=self.cross_entropy,
            cluster=self.cluster,
            separation=self.separation,
            l1=self.l1,
            orthogonality=self.orthogonality,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneConfig:
    """Whether and how prototypes are removed at the end.

    Attributes:
        enabled: prune after the last push.
        rule: "compat": the paper's rule, by the nearest images of each prototype; "needed": removes duplicates, then
            what the answers do not need, by the validation split.
        k: with "compat": number of nearest training images considered for each prototype.
        threshold: with "compat": a prototype stays if at least this many of the k are of its class.
        accuracy_loss: with "needed": the validation accuracy may fall by at most this much, in [0, 1].
        loss_ratio: with "needed": the mean cross entropy on the validation split may rise to at most this many times
            its value with all prototypes.
        per_class: with "needed": number of prototypes that each class keeps, whatever is lost; 0: as few as the two
            limits allow.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    enabled: bool = False
    rule: Literal["compat", "needed"] = "compat"
    k: int = 6
    threshold: int = 3
    accuracy_loss: float = 0.0025
    loss_ratio: float = 1.05
    per_class: int = 0

    def __post_init__(self) -> None:
        require_number(self, "k", minimum=1)
        require(0 <= self.threshold <= self.k, "threshold", f"from 0 to k ({self.k})", self.threshold)
        require(0 <= self.accuracy_loss <= 1, "accuracy_loss", "from 0 to 1", self.accuracy_loss)
        require_number(self, "loss_ratio", minimum=1)
        require_number(self, "per_class")
