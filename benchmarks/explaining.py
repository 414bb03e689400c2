"""LIME in batches, and the same samples one at a time through captum: seconds an image, taking turns."""

import statistics
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import Figure, paired, say
from datamodules.images import fit_to_square
from datamodules.synthetic import DrawnFaces, draw
from emotion.explanation.methods import MethodOptions, Network, explain_image
from emotion.explanation.superpixels import superpixels
from lightning_modules.classifier import EmotionClassifier

BATCH = 64


def measure(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Return seconds an image in batches, and how many times as long one sample at a time takes."""
    backbone, size, samples, pieces, repeats = (
        ("test_resnet", 32, 40, 10, 1) if toy else ("tf_efficientnet_lite0", 64, 1000, 50, 3)
    )
    torch.manual_seed(0)
    faces = DrawnFaces(largest=2, ratio=1, size=size)
    model = EmotionClassifier(list(faces.classes), backbone, "none").eval()
    network = Network(model, model.probabilities, model.backbone)
    image = fit_to_square(draw(faces, 0).image, size)
    segments = superpixels(image[None], pieces)[0]

    def seconds(batch: int, number: int = samples) -> tuple[float, np.ndarray]:
        options = MethodOptions(superpixels=pieces, samples=number, batch=batch)
        start = time.perf_counter()
        found, _ = explain_image(network, image, segments, 0, 0, options)
        return time.perf_counter() - start, found

    seconds(BATCH, pieces + 2)  # warms up
    say(f"LIME, {samples} samples, {int(segments.max()) + 1} superpixels, {backbone} at {size} px, {repeats} times")
    ours, theirs, difference = [], [], 0.0
    for _ in range(repeats):
        one, batched = seconds(BATCH)
        other, single = seconds(1)
        ours.append(one)
        theirs.append(other)
        difference = max(difference, float(np.abs(batched - single).max() / np.abs(single).max()))
    ratio, detail = paired(ours, theirs)
    setting = f"LIME, {samples} samples, {backbone} at {size} px, batch {BATCH}, {torch.get_num_threads()} threads"
    detail |= {"setting": setting, "largest_difference_of_maps": float(f"{difference:.2g}")}
    return [
        Figure(
            "explain_seconds_per_image",
            statistics.median(ours),
            f"seconds an image: {setting}",
            at_most=5,
            detail=detail,
        ),
        Figure(
            "explain_batched_gain",
            ratio,
            "how many times as long the same samples take one at a time",
            at_least=1,
            detail=detail,
        ),
    ]
