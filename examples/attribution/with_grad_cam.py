"""A class activation map of pytorch-grad-cam on the features that prototypes are compared with.

It is HiResCAM, because only the nearest patches get a gradient: Grad-CAM would spread its mean over all of them.

pip install grad-cam
python examples/attribution/with_grad_cam.py
"""

from __future__ import annotations

from birds import net_and_bird
from pytorch_grad_cam import HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from protokern import LogitsOnly


def main() -> None:
    """Where in the image the answer comes from."""
    model, bird = net_and_bird()
    net = LogitsOnly(model)
    answer = int(net(bird).argmax())
    with HiResCAM(model=net, target_layers=[model.add_on_layers]) as cam:
        heat = cam(input_tensor=bird, targets=[ClassifierOutputTarget(answer)])[0]
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    print(f"a map of {heat.shape[0]} x {heat.shape[1]} pixels from {heat.min():.2f} to {heat.max():.2f}")
    print(f"the hottest pixel is at row {row}, column {column}")


if __name__ == "__main__":
    main()
