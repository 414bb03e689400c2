"""`emotion compare`: two runs on the same images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from records.cli import main
from records.predictions import flag_protocol
from records.tracking import TrackingLogger

CLASSES = ("angry", "happy")


def table(predicted: list[str], first_row: int = 0) -> pd.DataFrame:
    rows = np.arange(first_row, first_row + len(predicted))
    return pd.DataFrame(
        {
            "row": rows,
            "path": [f"{row}.png" for row in rows],
            "content": [f"hash{row}" for row in rows],
            "cluster": rows,
            "subject": "",
            "fold": 0,
            "label": ["angry", "happy"] * (len(predicted) // 2),
            "predicted": predicted,
            "prob_angry": [float(name == "angry") for name in predicted],
            "prob_happy": [float(name == "happy") for name in predicted],
        }
    )


def keep(name: str, predictions: pd.DataFrame) -> str:
    run = TrackingLogger(run_name=name, system_metrics=False)
    run.log_table(predictions, "predictions")
    run.finalize("success")
    return str(run.run_id)


def test_difference_is_b_minus_a_and_other_images_are_refused(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = keep("worse", table(["angry", "angry"] * 10))
    b = keep("right", table(["angry", "happy"] * 10))
    other = keep("elsewhere", table(["angry", "happy"] * 10, first_row=5))
    assert main(["compare", a[:10], "right"]) == 0
    printed = capsys.readouterr().out
    accuracy = next(line for line in printed.splitlines() if line.startswith("accuracy"))
    assert accuracy.split()[1:4] == ["0.500", "1.000", "+0.500"]
    assert "a: worse" in printed
    assert "protocol" not in printed
    with pytest.raises(InputError, match="must predict the same images"):
        main(["compare", b, other])
    with pytest.raises(InputError, match="must mean one run"):
        main(["compare", b, "nonsense"])


def test_a_leaky_protocol_is_told_beside_the_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    honest = keep("honest one", table(["angry", "happy"] * 10))
    leaky = keep("leaky one", flag_protocol(table(["angry", "happy"] * 10), "selected on what is reported"))
    assert main(["compare", honest, leaky]) == 0
    printed = capsys.readouterr().out
    assert "protocol of b: selected on what is reported\n" in printed
    assert "protocol of a" not in printed
