"""Integrated gradients of zennit for the logit of a prototype net.

Rules of layer-wise relevance propagation need more than logits: see `heat_map="prp"` of `protokern.explain`.

pip install zennit
python examples/attribution/with_zennit.py
"""

from __future__ import annotations

import torch
from birds import net_and_bird
from zennit.attribution import IntegratedGradients

from protokern import LogitsOnly


def main() -> None:
    """Attribute the answer to the pixels; they add up to what the logit gains over that of a black image."""
    model, bird = net_and_bird()
    net, black = LogitsOnly(model), torch.zeros_like(bird)
    logits = net(bird).detach()
    answer = torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).to(bird)
    with IntegratedGradients(net, n_iter=400) as attributor:
        _, pixels = attributor(bird, answer)
    gain = float(((logits - net(black)) * answer).sum().detach())
    print(f"the pixels have {float(pixels.sum()):.3f} of {gain:.3f} points")


if __name__ == "__main__":
    main()
