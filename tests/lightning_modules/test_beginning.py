"""Further training begins with all weights of a run, and not with one that knows what will be reported."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.errors import InputError
from lightning_modules import beginning
from lightning_modules.beginning import begin_from
from lightning_modules.checkpoints import CONFIG_KEY
from lightning_modules.classifier import EmotionClassifier

SMALL: dict[str, Any] = {"backbone": "test_resnet", "weights": "none"}
DATA = cast(Any, SimpleNamespace(
    manifest=SimpleNamespace(fingerprint=lambda: "same"),
    clusters=np.array([0, 0, 1, 1, 2, 3]),
    fold_rows=SimpleNamespace(outer=np.array([4, 5])),
))  # fmt: skip


def kept(folder: Path, classes: list[str], **options: object) -> tuple[EmotionClassifier, Path]:
    model = EmotionClassifier(classes, **{**SMALL, **options})  # type: ignore[arg-type]
    torch.save({CONFIG_KEY: model.plain, "state_dict": model.state_dict()}, folder / "best.ckpt")
    return model, folder / "best.ckpt"


def test_backbone_and_head_are_those_of_the_file(tmp_path: Path) -> None:
    known, path = kept(tmp_path, ["happy", "sad"])
    model = EmotionClassifier(["happy", "sad"], **SMALL)
    heads = [one.head.state_dict().values() for one in (model, known)]
    assert not all(torch.equal(one, other) for one, other in zip(*heads, strict=True))
    begin_from(model, DATA, str(path))
    for name, tensor in known.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_another_model_is_refused(tmp_path: Path) -> None:
    _, path = kept(tmp_path, ["happy", "sad"])
    with pytest.raises(
        InputError, match=r"run.start_from .* was trained on the classes happy, sad; the data has sad, happy"
    ):
        begin_from(EmotionClassifier(["sad", "happy"], **SMALL), DATA, str(path))
    dense = EmotionClassifier(["happy", "sad"], head="dense_dense", **SMALL)
    with pytest.raises(InputError, match=r"best.ckpt has head 'linear', this run 'dense_dense'; give both the same"):
        begin_from(dense, DATA, str(path))
    with pytest.raises(InputError, match="no such file"):
        begin_from(dense, DATA, "gone.ckpt")


@pytest.mark.parametrize(
    ("roles", "manifest", "told"),
    [
        ({"train": [0, 1, 2], "inner": [3], "outer": [4, 5]}, "same", None),
        ({"train": [0, 1, 4], "inner": [3], "outer": [5]}, "same", "has learnt from 1 of the 2 images"),
        ({"train": [0, 1], "inner": [4, 5], "outer": [3]}, "same", "has learnt from 2 of the 2 images"),
        ({"train": [0, 1, 4], "inner": [3], "outer": [5]}, "other", None),  # rows mean other images there
    ],
)
def test_a_run_that_knows_what_is_reported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roles: dict[str, list[int]], manifest: str, told: str | None
) -> None:
    _, path = kept(tmp_path, ["happy", "sad"])
    split = pd.DataFrame([{"role": role, "row": row} for role, rows in roles.items() for row in rows])
    monkeypatch.setattr(beginning, "find_run", lambda run: run)
    monkeypatch.setattr(beginning, "run_checkpoint", lambda run: path)
    monkeypatch.setattr(beginning, "find_runs", lambda **_: pd.DataFrame([{"tags.manifest": manifest}]))
    monkeypatch.setattr(beginning, "load_table", lambda *_: split)
    model = EmotionClassifier(["happy", "sad"], **SMALL)
    if told is None:
        begin_from(model, DATA, "abc")
        return
    with pytest.raises(InputError, match=told):
        begin_from(model, DATA, "abc")


def test_people_of_the_reported_images_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = cast(Any, SimpleNamespace(**{**vars(DATA), "clusters": np.array([0, 0, 1, 1, 0, 3])}))
    split = pd.DataFrame({"role": ["train", "outer"], "row": [0, 4]})
    monkeypatch.setattr(beginning, "find_runs", lambda **_: pd.DataFrame([{"tags.manifest": "same"}]))
    monkeypatch.setattr(beginning, "load_table", lambda *_: split)
    with pytest.raises(InputError, match=r"learnt from 1 of the 2 images \(or their twins or people\)"):
        beginning._refuse_known("abc", shared)
