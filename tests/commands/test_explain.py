"""`emotion explain`: the smallest explanation, its files, and its exit status."""

from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

SMALL = ("--superpixels", "20", "--samples", "30", "--seeds", "0", "--resamples", "100", "--permutations", "99")


def test_held_out_images_are_explained(emotion: Any, fitted: str) -> None:
    words = ("--method", "lime", "--images", "1", "--answers", "any", *SMALL)
    done = emotion("explain", fitted[:8], *words, status=None)
    folder = Path(f"explain-{fitted[:8]}-lime")
    assert {"report.html", "report.md", "table.csv"} <= {path.name for path in folder.iterdir()}
    with Image.open(folder / "overlays.png") as image:
        assert image.width > 100
    table = pd.read_csv(folder / "table.csv")
    predictions = emotion.table(fitted, "predictions").set_index("row")
    assert set(table["row"]) <= set(predictions.index)
    metrics = emotion.client.get_run(fitted).data.metrics
    assert done.status == (0 if metrics["explain/lime/holds"] else 1)
    kept = {path.name for path in Path("mlruns").rglob("*") if "explain" in path.parts}
    assert "report.html" in kept
    assert "overlays.png" not in kept  # images of people stay in the folder
    assert len(emotion.runs()) == 1


def test_new_images_are_explained(emotion: Any, fitted: str, faces: Path) -> None:
    image = next(faces.rglob("*.png"))
    with Image.open(image) as old:
        old.rotate(15).resize((40, 40)).save("new.png")
    words = ("--method", "integrated-gradients", "--steps", "2", *SMALL, "--not-kept", "--out", "new")
    emotion("explain", fitted, "--paths", "new.png", *words, status=None)
    (row,) = pd.read_csv("new/table.csv").to_dict(orient="records")
    assert "new.png" in row["path"]
    emotion("predict", "--run", fitted, "--data", "new.png", "--output", "predicted.csv")
    assert row["predicted"] == pd.read_csv("predicted.csv")["label"].item()
    assert not [path for path in Path("mlruns").rglob("*") if "explain" in path.parts]


def test_wrong_words(emotion: Any, fitted: str) -> None:
    assert "grad-cam" in emotion("explain", fitted, "--method", "gradcam", status=1).errors[0]
    assert "nope" in emotion("explain", "nope", *SMALL, status=1).errors[0]
    assert "gone.png" in emotion("explain", fitted, "--paths", "gone.png", *SMALL, status=1).errors[0]
