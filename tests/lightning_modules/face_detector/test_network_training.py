"""The detector learns scenes by heart; its head keeps the levels of the pyramid apart; what was stopped goes on."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

import emotion
from datamodules.face_boxes import BoxesDataModule
from lightning_modules.face_detector import FaceDetector
from lightning_modules.face_detector.network import (
    ImageMatches,
    Tower,
    average_precision,
    difference,
    match,
    permutation,
)
from lightning_modules.face_detector.training import detection_table, image_matches, matched, truth_table
from results.tracking.runs import download, find_runs, load_table
from results.tracking.store import embedded_uri

SMALL = (
    *("--data", "scenes:images=16,size=96,others=1", "--size", "64", "--data.batch_size", "6", "--epochs", "2"),
    *("--data.num_workers", "0", "--model.backbone", "resnet10t", "--model.weights", "none", "--model.width", "8"),
    *("--run.resamples", "100", "--run.accelerator", "cpu", "--run.ema_decay", "0.5"),
    *("--model.learning_rate", "0.01"),
)


def test_levels_have_their_own_normalisation_and_common_convolutions() -> None:
    torch.manual_seed(0)
    tower = Tower(4, levels=3).train()
    coarse = 5 + 3 * torch.randn(2, 4, 8, 8)
    fine = torch.randn(2, 4, 16, 16)
    for _ in range(100):
        tower(coarse, 2)
        tower(fine, 0)
    learnt = [tower(x, level) for x, level in ((coarse, 2), (fine, 0))]
    tower.eval()
    for (x, level), before in zip(((coarse, 2), (fine, 0)), learnt, strict=True):
        torch.testing.assert_close(tower(x, level), before, atol=0.1, rtol=0.05)
    assert sum(parameter.ndim == 4 for parameter in tower.parameters()) == 2


@pytest.mark.slow
def test_eight_scenes_are_learnt_by_heart() -> None:
    pl.seed_everything(0, verbose=False)
    data = BoxesDataModule("scenes:images=12,size=320", size=192, augment=False, num_workers=0)
    rows = np.arange(8)
    images = torch.from_numpy(data.cache.read(rows).copy()).permute(0, 3, 1, 2)
    boxes = [torch.from_numpy(data.boxes[row]) for row in rows]
    model = FaceDetector(size=192).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    steps = 40
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps, pct_start=0.2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.objective(model(images), boxes, model.centres, model.scales)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        found = model.decode(model(images))
    precision = average_precision([match(*one, data.boxes[row]) for one, row in zip(found, rows, strict=True)])
    assert precision[0] > 0.9
    assert precision.mean() > 0.7


@pytest.fixture(scope="module")
def data() -> BoxesDataModule:
    return BoxesDataModule("scenes:images=16,size=96,others=1", size=64, num_workers=0)


def test_tables_lead_back_to_the_same_pictures(data: BoxesDataModule) -> None:
    generator = np.random.default_rng(0)
    found = {}
    for row in (3, 5, 9):
        near = data.boxes[row] + generator.normal(0, 2, data.boxes[row].shape).astype(np.float32)
        boxes = np.concatenate([near, np.float32([[1, 1, 9, 9]])])
        found[row] = boxes, generator.random(len(boxes)).astype(np.float32)
    found[7] = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    again = matched(detection_table(found, data), truth_table(data, [9, 7, 5, 3]))
    for one, other in zip(image_matches(found, data), again, strict=True):
        np.testing.assert_array_equal(one.hits, other.hits)
        assert one.faces == other.faces


def test_a_picture_without_a_face_stays_in_the_tables() -> None:
    truth = pd.DataFrame({"row": [0, 1], "path": "x", "x0": [0.0, np.nan], "y0": 0.0, "x1": 9.0, "y1": 9.0})
    found = pd.DataFrame({"row": [1], "path": "x", "score": [0.9], "x0": [0.0], "y0": [0.0], "x1": [9.0], "y1": [9.0]})
    first, second = matched(found, truth)
    assert (first.faces, len(first.scores)) == (1, 0)
    assert (second.faces, second.hits.any()) == (0, False)


def picture(*, hit: bool) -> ImageMatches:
    return ImageMatches(np.array([0.5]), np.full((10, 1), hit), 1)


def test_swapping_pictures_tells_chance_from_change() -> None:
    right, wrong = picture(hit=True), picture(hit=False)
    # five images, found only afterwards: of the 32 ways to swap, one and its mirror are as far
    p_values = permutation([wrong] * 5, [right] * 5, resamples=1000)
    np.testing.assert_allclose(p_values, 2 / 32, atol=0.03)
    assert permutation([right] * 5, [right] * 5, resamples=100).tolist() == [1.0, 1.0]
    mixed = [right, wrong] * 3
    assert (permutation(mixed, mixed[::-1], resamples=100) > 0.5).all()
    assert difference([wrong] * 5, [right] * 5)["value"].tolist() == [1.0, 1.0]


def test_a_stopped_run_goes_on_to_the_same_weights(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert emotion.main(["detector", "fit", *SMALL, "--run.name", "whole"]) == 0
    seen = []

    def stop(self: FaceDetector) -> None:
        seen.append(self.current_epoch)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FaceDetector, "on_train_epoch_start", stop)
        assert emotion.main(["detector", "fit", *SMALL]) == 130
    assert seen == [0, 1]
    said = capsys.readouterr().err
    runs = {run.name: run for run in find_runs().itertuples()}
    stopped = next(run for name, run in runs.items() if name != "whole")
    assert stopped.status != "FINISHED"
    assert f"--resume {stopped.run_id}" in said
    assert emotion.main(["detector", "fit", *SMALL, "--model.nwd", "0.1", "--resume", stopped.run_id]) == 1
    assert "was started with other options" in capsys.readouterr().err
    assert emotion.main(["detector", "fit", *SMALL, "--resume"]) == 0
    after = {run.name: run for run in find_runs().itertuples()}
    assert len(after) == 2
    ids = [after["whole"].run_id, stopped.run_id]
    assert after[stopped.name].status == "FINISHED"
    client = MlflowClient(embedded_uri("mlruns"))
    for name in ("train/loss", "val/loss"):
        curves = [{one.step: one.value for one in client.get_metric_history(run, name)} for run in ids]
        assert len(curves[0]) == 2
        assert curves[1] == pytest.approx(curves[0], abs=1e-6), name
    one, other = (load_table(run, "detections") for run in ids)
    pd.testing.assert_frame_equal(one, other)
    weights = [torch.load(download(run, "checkpoint/best.ckpt"), weights_only=True)["state_dict"] for run in ids]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    assert not list(Path("mlruns/runs").glob("*/last.ckpt"))
    assert emotion.main(["detector", "fit", *SMALL, "--resume", stopped.run_id]) == 1
    assert "has finished, so there is nothing to resume" in capsys.readouterr().err
