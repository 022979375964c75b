"""The address of the plan of a run for programs that import it from here; the plan is the model's."""

from protokern.models.plan import LEARNING, Step, is_push_epoch, plan, skip_after_early_stop

__all__ = ["LEARNING", "Step", "is_push_epoch", "plan", "skip_after_early_stop"]
