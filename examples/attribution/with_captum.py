"""Integrated gradients of captum for the logit of a prototype net.

pip install captum
python examples/attribution/with_captum.py
"""

from __future__ import annotations

import torch
from birds import net_and_bird
from captum.attr import IntegratedGradients

from protokern import LogitsOnly


def main() -> None:
    """Attribute the answer to the pixels; they add up to what the logit gains over that of a black image."""
    model, bird = net_and_bird()
    net, black = LogitsOnly(model), torch.zeros_like(bird)
    answer = int(net(bird).argmax())
    pixels = IntegratedGradients(net).attribute(bird, black, target=answer, n_steps=400, internal_batch_size=50)
    gain = float((net(bird) - net(black))[0, answer].detach())
    print(f"the pixels have {float(pixels.sum()):.3f} of {gain:.3f} points")


if __name__ == "__main__":
    main()
