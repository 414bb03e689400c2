"""The estimate of a dry run agrees with what the runs would do."""

import numpy as np
import pytest
import torch

from lightning_modules import backbones
from lightning_modules import training as run_estimate
from lightning_modules.config import Options, RunConfig, data_module
from sweeps.studies import detection
from sweeps.studies import runner as estimate_module
from sweeps.studies.runner import _sizes, estimate
from sweeps.studies.schema import Cell, Study

FACES = ["--data", "drawn:largest=40,ratio=4,size=32", "--data.size", "32"]


@pytest.mark.parametrize(
    ("options", "folds"),
    [
        (["--data.split", "holdout", "--data.transforms", "[zoom]", "--data.transform_where", "doubled"], 0),
        (["--data.n_min", "0.9", "--data.folds", "4"], 4),
        (
            [
                "--data.n_min",
                "max",
                "--data.split",
                "holdout",
                "--data.protocol",
                "paper",
                "--data.inner_fraction",
                "0",
            ],
            0,
        ),
    ],
)
def test_sizes_are_those_of_the_division(options: list[str], folds: int) -> None:
    config = RunConfig.resolve(["--recipe", "baseline", *FACES, *options])
    data = data_module(config)
    trained, inner, outer = _sizes(data, folds)
    assert trained == pytest.approx(len(data.draws), abs=len(data.classes) * 2)
    assert inner == pytest.approx(len(data.selected_on), abs=len(data.classes))
    assert outer == pytest.approx(len(data.fold_rows.test), abs=len(data.classes))


def test_runs_and_images_are_counted_over_cells_seeds_and_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_module, "seconds_an_image", lambda *_: 0.5)
    options = {"trainer.max_epochs": 3, "data.inner_fraction": 0.1}
    cells = (
        Cell(name="one", recipe="baseline", options=options | {"data.split": "holdout"}),
        Cell(name="two", recipe="baseline", options=options, folds=5, stage=1),
    )
    study = Study(name="s", about="", source="", cells=cells, tables=(), claims=(), seeds=(0, 1))
    lines = [line.split() for line in estimate(study, Options.read(FACES)).splitlines()]
    images = len(data_module(RunConfig.resolve(["--recipe", "quick", *FACES])).manifest)
    first, second, total = (next(line for line in lines if line[:2] == start) for start in
                            (["stage", "1"], ["stage", "2"], ["together", "2"]))  # fmt: skip
    assert [int(first[3]), int(second[3]), int(total[2])] == [2, 10, 12]
    learnt = int(first[4].replace(",", ""))
    assert learnt == pytest.approx(2 * 3 * 0.72 * images, rel=0.02)
    assert int(second[4].replace(",", "")) == pytest.approx(2 * 5 * 3 * 0.72 * images, rel=0.02)
    assert np.isclose(int(total[3].replace(",", "")), learnt + int(second[4].replace(",", "")))


@pytest.mark.parametrize(("cuda", "mps", "kind"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_the_best_device_is_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, kind: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert backbones.best_device().type == kind


@pytest.mark.parametrize(("size", "images"), [(32, 128), (224, 23)])
def test_batches_of_large_images_are_timed_in_parts(monkeypatch: pytest.MonkeyPatch, size: int, images: int) -> None:
    """On the CPU, where a whole batch may not fit into memory."""
    seen: set[int] = set()
    loss = torch.nn.functional.cross_entropy

    def watched(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        seen.add(len(logits))
        return loss(logits, label)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", watched)
    monkeypatch.setattr(run_estimate, "best_device", lambda: torch.device("cpu"))
    config = RunConfig({"backbone": "test_resnet", "stem_stride": None}, {"size": size, "batch_size": 128}, {})
    assert run_estimate.seconds_an_image(config) > 0
    assert seen == {images}


def test_estimates_are_timed_on_the_best_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device computes nothing, so that no loss can be read from it: a stand-in for a GPU."""
    for module in (run_estimate, detection):
        monkeypatch.setattr(module, "best_device", lambda: torch.device("meta"))
    config = RunConfig({"backbone": "test_resnet", "stem_stride": None}, {"size": 32, "batch_size": 2}, {})
    with pytest.raises((NotImplementedError, RuntimeError), match=r"[Mm]eta"):
        run_estimate.seconds_an_image(config)
    with pytest.raises((NotImplementedError, RuntimeError), match=r"[Mm]eta"):
        detection.seconds_a_detector_image(RunConfig({}, {"size": 64, "batch_size": 2}, {}, kind="detector"))
