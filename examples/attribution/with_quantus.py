"""Quantus judges heat maps of prototypes: do the pixels that they mark as important change the logit most?

pip install quantus
python examples/attribution/with_quantus.py
"""

from __future__ import annotations

import numpy as np
import quantus
from birds import net_and_bird

from protokern import LogitsOnly
from protokern.explain import explain_image


def main() -> None:
    """The faithfulness correlation of the heat map of the prototype with the most points."""
    model, bird = net_and_bird()
    explanation = explain_image(model, bird[0])
    heat_map = explanation.classes[0].evidence[0].view.heat_map  # (64, 64)
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=50, subset_size=256, perturb_baseline="black", disable_warnings=True, display_progressbar=False
    )
    np.random.seed(0)  # of the subsets of pixels
    (correlation,) = metric(
        model=LogitsOnly(model),
        x_batch=bird.numpy(),
        y_batch=np.array([explanation.predicted]),
        a_batch=heat_map[None, None],
        device="cpu",
    )
    print(f"faithfulness correlation {correlation:.2f}")


if __name__ == "__main__":
    main()
