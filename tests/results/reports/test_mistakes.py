"""Mistakes: every wrong prediction once, the most frequent pair and the most confident mistake first."""

from collections.abc import Callable

import pandas as pd
import pytest

from results.reports.gallery import mistakes, pairs_table

Draw = Callable[..., pd.DataFrame]


def test_every_mistake_stands_once_by_pair_and_confidence(draw_predictions: Draw) -> None:
    table = draw_predictions(300)
    wrong = mistakes(table)
    assert set(wrong["row"]) == set(table.loc[table["label"] != table["predicted"], "row"])
    assert wrong["row"].is_unique
    sizes = wrong.groupby(["label", "predicted"], sort=False).size()
    assert sizes.is_monotonic_decreasing
    for (label, predicted), part in wrong.groupby(["label", "predicted"], sort=False):
        assert part["probability"].is_monotonic_decreasing
        row = part.iloc[0]
        stored = table.set_index("row").loc[row["row"]]
        assert row["probability"] == stored[f"prob_{predicted}"]
        assert row["probability_of_label"] == stored[f"prob_{label}"]
    pairs = pairs_table(wrong, table)
    assert pairs["mistakes"].astype(int).tolist() == sizes.tolist()
    first = pairs.iloc[0]
    images = (table["label"] == first["label"]).sum()
    assert first["share"] == f"{int(first['mistakes']) / images:.1%}"


def test_a_run_without_mistakes_has_an_empty_table(draw_predictions: Draw) -> None:
    table = draw_predictions(20)
    table["label"] = table["predicted"]
    assert mistakes(table).empty
    assert pairs_table(mistakes(table), table).empty
    with pytest.raises(KeyError, match="cluster"):  # no column that is not documented
        _ = mistakes(table)["cluster"]
