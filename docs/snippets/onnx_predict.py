"""Classify a photograph with an exported model: onnxruntime, NumPy and Pillow, without PyTorch and this package."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, photo = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
about = session.get_modelmeta().custom_metadata_map
classes, size = json.loads(about["classes"]), int(about["size"])

image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
square = ImageOps.fit(image, (size, size), Image.Resampling.BOX)  # for "fit": "crop", the largest centred square
pixels = np.asarray(square).transpose(2, 0, 1)[None]  # uint8 (1, 3, size, size)
(probabilities,) = session.run(None, {"image": pixels})
for name, probability in sorted(zip(classes, probabilities[0], strict=True), key=lambda pair: -pair[1]):
    print(f"{name} {probability:.3f}")
