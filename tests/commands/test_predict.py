"""`emotion predict`: an image, a folder, a table; the same numbers as the evaluation of the run."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest


def probabilities(table: pd.DataFrame) -> list[str]:
    return [name for name in table if name.startswith("prob_")]


def test_an_image_a_folder_and_a_table(emotion: Any, fitted: str, faces: Path) -> None:
    image = next(faces.rglob("*.png"))
    done = emotion("predict", "--run", fitted, "--data", str(image))
    (line,) = done.out.splitlines()
    assert line.split("\t")[0] == str(image)
    assert line.split("\t")[1] in set(emotion.table(fitted, "predictions")["label"])
    assert fitted[:8] in done.err

    emotion("predict", "--run", "latest", "--data", str(faces), "--output", "all.csv")
    folder = pd.read_csv("all.csv", keep_default_na=False)
    assert len(folder) == 20
    names = probabilities(folder)
    assert folder[names].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert (folder[names].idxmax(axis=1) == "prob_" + folder["predicted"]).all()

    pd.DataFrame({"path": [str(image)]}).to_csv("table.csv", index=False)
    emotion("predict", "--run", fitted[:8], "--data", "table.csv", "--output", "one.parquet")
    one = pd.read_parquet("one.parquet")
    chosen = folder[folder["path"].map(lambda path: Path(path).name) == image.name]
    assert one[names].to_numpy(float) == pytest.approx(chosen[names].to_numpy(float), abs=1e-5)


def test_a_broken_file_is_named_and_the_others_are_predicted(emotion: Any, fitted: str, faces: Path) -> None:
    (faces / "sad" / "broken.png").write_text("no image")
    done = emotion("predict", "--run", fitted, "--data", str(faces), "--output", "all.csv", status=1)
    assert "broken.png" in done.err
    assert "Traceback" not in done.err
    table = pd.read_csv("all.csv", keep_default_na=False)
    assert len(table) == 21
    wrong = table["error"] != ""
    assert [Path(path).name for path in table.loc[wrong, "path"]] == ["broken.png"]
    assert (table.loc[~wrong, "predicted"] != "").all()


def test_it_gives_the_probabilities_of_the_evaluation(emotion: Any, fitted: str, drawn: str) -> None:
    """Training reads images from the cache, prediction from their files: the numbers must be equal."""
    emotion("data", "prepare", "--data", drawn, "--output", "drawn.csv")
    emotion("predict", "--run", fitted, "--data", "drawn.csv", "--output", "again.parquet")
    table, again = emotion.table(fitted, "predictions"), pd.read_parquet("again.parquet")
    assert len(again) > len(table) > 50
    again = again.iloc[table["row"]]
    assert list(again["predicted"]) == list(table["predicted"])
    names = probabilities(table)
    assert again[names].to_numpy() == pytest.approx(table[names].to_numpy(), abs=1e-5)


@pytest.mark.parametrize(("command", "metric"), [("test", "test/f1_macro"), ("validate", "val/f1_macro")])
def test_evaluating_again_gives_the_numbers_of_the_run(emotion: Any, fitted: str, command: str, metric: str) -> None:
    done = emotion(command, "--run", fitted[:8])
    (shown,) = re.findall(rf" {metric} \D*([\d.]+)", done.out)
    assert float(shown) == pytest.approx(max(emotion.history(fitted, metric).values()), abs=1e-5)
    assert len(emotion.runs()) == 1  # it makes no run
