"""What the face detector's study would cost: pictures, and about how long, from one timed batch."""

import time

import torch

from lightning_modules.detector.module import FaceDetector
from lightning_modules.device import best_device, describe_device
from sweeps.studies.face_detector import TRAINED, TUNED
from sweeps.studies.face_detector_conduct import DetectorConduct

BEGINNING = 15.0  # seconds a run takes besides training: checks, evaluation, tables
FORWARD = 3.0  # a picture that is only looked at costs a third of one that is learnt from


def estimate(conduct: DetectorConduct) -> str:
    """Return the estimate as text; draws and reads the pictures, keeps no run."""
    lines, seconds = [], 0.0
    seeds = len(conduct.study.seeds)
    for model in (TRAINED, TUNED):
        config = conduct.config(model, 0, None)
        fold, epochs = conduct.data(model).fold, int(config.run["epochs"])
        learnt, seen = epochs * len(fold.train), epochs * len(fold.inner) + 2 * len(fold.outer)
        one = _seconds(config.model, config.data["size"], config.data["batch_size"])
        seconds += seeds * (BEGINNING + one * (learnt + seen / FORWARD))
        lines.append(
            f"{model}: {seeds} runs of {epochs} epochs over {len(fold.train)} pictures; "
            f"{len(fold.inner)} to choose the epoch, {len(fold.outer)} to report on"
        )
    device = describe_device(best_device())
    lines.append(f"about {seconds / 60:.0f} min, timed with one batch on {device}, as busy as it is now")
    return "\n".join(lines)


def _seconds(options: dict[str, object], size: int, batch: int) -> float:
    """Return the seconds that a training picture takes, from a batch after a first one."""
    device = best_device()
    model = FaceDetector(**{**options, "weights": "none", "size": size}).to(device).train()  # type: ignore[arg-type]
    image = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    face = torch.tensor([[0.3, 0.3, 0.6, 0.7]], device=device) * size
    begun = 0.0
    for _ in range(2):
        begun = time.perf_counter()
        loss = model.objective(model(image), [face] * batch, model.centres, model.scales)["loss"]
        loss.backward()
        float(loss.detach())  # waits for the device
    return (time.perf_counter() - begun) / batch
