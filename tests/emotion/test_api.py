"""The functions of the package give what the commands give."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import emotion

OTHER = "drawn:largest=12,ratio=1,size=40,seed=5,classes=happy+sad+angry"
TINY = {
    **{"data.size": 32, "data.batch_size": 16, "model.backbone": "test_resnet", "model.weights": "none"},
    **{"trainer.max_epochs": 1, "trainer.accelerator": "cpu", "run.resamples": 100},
}

pytestmark = [
    pytest.mark.usefixtures("workplace"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


def test_functions_give_what_the_commands_give() -> None:
    run = emotion.fit("quick", data=OTHER, overrides={**TINY, "data.folds": 3})
    assert set(run.predictions["label"]) == {"happy", "sad", "angry"}
    model = emotion.load(run.run_id)
    image = str(run.data.manifest.file(0))
    assert emotion.main(["predict", run.run_id, image, "--output", "same.parquet"]) == 0
    pd.testing.assert_frame_equal(model.predict(image), pd.read_parquet("same.parquet"), check_dtype=False)

    again = emotion.fit("quick", data=OTHER, seed=1, overrides={**TINY, "data.folds": 3})
    pairs = emotion.compare(run.run_id, again.run_id, resamples=100, permutations=99)
    assert pairs.loc[pairs["metric"] == "f1_macro", "a_score"].item() == pytest.approx(run.scores["f1_macro"])

    scored = emotion.evaluate(model, "drawn:largest=8,ratio=1,size=32,seed=9,classes=happy+sad", resamples=100)
    assert len(scored.predictions) == 16
    assert scored.scores["accuracy"] == (scored.predictions["label"] == scored.predictions["predicted"]).mean()

    whole = emotion.cross_validate("quick", data=OTHER, folds=2, overrides=TINY)
    assert whole is not None
    assert len(emotion.load(whole.run_id).members) == 2
    assert np.isfinite(emotion.load(whole.run_id).predict(image)["confidence"].item())
    assert Path("mlruns/mlflow.db").is_file()
