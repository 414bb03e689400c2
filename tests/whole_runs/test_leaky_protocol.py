"""A run by a leaky protocol: it says so before it trains, above its result, in its tags and in its tables."""

from pathlib import Path

import pytest

import emotion
from records.runs import download, find_runs, load_table

pytestmark = pytest.mark.filterwarnings("ignore:protocol. selected on the reported fold, over-sampled before")


def test_a_leaky_run_is_marked_wherever_it_is_read(
    place: Path, one_run: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    leaky = ["--data.protocol", "paper", "--data.leak", "oversample_first"]
    assert emotion.main(["fit", *one_run, *leaky, "--data.inner_fraction", "0"]) == 0
    protocol = "selected on the reported fold, over-sampled before the division, duplicates and people divided (leaky: "
    assert f"\nprotocol: {protocol}" in capsys.readouterr().out
    run = find_runs().iloc[0]
    assert run["tags.protocol"].startswith(protocol)
    assert run["tags.selected_on"] == "reported fold"
    assert run["tags.leak.leak"] == "oversample_first"
    for name in ("predictions", "split", "intervals"):
        assert load_table(run["run_id"], name)["run_protocol"].str.startswith(protocol).all()
    predictions, split = (load_table(run["run_id"], name) for name in ("predictions", "split"))
    outer = split[(split["role"] == "outer") & ~split["is_copy"]]
    assert sorted(predictions["row"]) == sorted(outer["row"])
    trained = split[split["role"] == "train"]
    assert set(trained.loc[trained["is_copy"], "row"]) & set(predictions["row"])
    assert download(run["run_id"], "result.md").read_text(encoding="utf-8").startswith(f"protocol: {protocol}")


def test_an_honest_run_is_tagged_as_one(finished: str) -> None:
    run = find_runs().iloc[0]
    assert run["run_id"] == finished
    assert (run["tags.protocol"], run["tags.selected_on"]) == ("honest", "inner part")
    assert "run_protocol" not in load_table(finished, "predictions")
