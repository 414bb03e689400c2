"""`emotion test --run RUN --data OTHER` scores the whole other data set, as `emotion evaluate` does."""

import pytest

from emotion.cli.train import _other_data
from lightning_modules.config import Options, RunConfig

RUN = RunConfig.resolve(["--data", "faces/home", "--split", "holdout"])


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        ("--run r --data faces/away", ["--data", "faces/away"]),
        (
            "--run r --data faces/away --alias mad=angry --data.read.votes soft",
            ["--data", "faces/away", '--data.read.aliases={"mad": "angry"}', "--data.read.votes=soft"],
        ),
        ("--run r", []),
        ("--run r --data faces/home", []),
        ("--run r --data faces/../faces/home", []),
        ("--run r --data faces/away --split given", []),  # its own test part
        ("--run r --data faces/away --recipe balanced", []),
    ],
)
def test_only_another_data_set_is_scored_whole(words: str, passed: list[str]) -> None:
    assert _other_data(Options.read(words.split()), RUN) == passed
