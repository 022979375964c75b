"""Explains an image with onnxruntime, NumPy and Pillow alone: what `protokern export --format onnx` wrote is enough.

python examples/explain_with_onnxruntime.py FOLDER PHOTO
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

folder, photo = map(Path, sys.argv[1:3])
table = json.loads((folder / "prototypes.json").read_text(encoding="utf-8"))
rows, columns = table["image_size"]
picture = ImageOps.exif_transpose(Image.open(photo)).convert("RGB").resize((columns, rows), Image.Resampling.BILINEAR)
image = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1)[None] / 255  # (1, 3, Y, X)
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
answers = dict(zip([output.name for output in session.get_outputs()], session.run(None, {"image": image}), strict=True))
best = int(answers["logits"][0].argmax())
points = answers["similarity"][0] * np.array(table["weights"][best])  # they add up to the logit
height, width = answers["grid"]
print(f"{table['classes'][best]}: {answers['logits'][0, best]:.3f}")
for prototype in points.argsort()[:-4:-1]:
    row, column = divmod(int(answers["patch"][0, prototype]), int(width))
    where = f"y {rows * (row + 0.5) / height:.0f}, x {columns * (column + 0.5) / width:.0f}"
    print(f"{points[prototype]:+.3f} at {where} looks like {table['prototypes'][prototype]['picture']}")
