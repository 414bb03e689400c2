"""Tables are aligned and marked; figures are drawn for any names, and their texts do not overlap."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from results.predictions import HONEST, flag_protocol
from results.reports.figures import class_figure, confusion_figure, curves_figure
from results.reports.tables import as_markdown, as_text, class_table, result_text, whole_table
from results.statistics import cluster_bootstrap, fold_scores

CLASSES = ["angry", "happy", "sad", "neutral"]
LONG = ["neutral", "happiness", "embarrassed and flustered", "sadness-and-grief"]
KOREAN = ["기쁨", "분노", "슬픔", "알수없음"]


def _renamed(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    new = dict(zip(CLASSES, names, strict=True))
    renamed = table.rename(columns={f"prob_{old}": f"prob_{name}" for old, name in new.items()})
    return renamed.assign(label=table["label"].map(new), predicted=table["predicted"].map(new))


def _assert_apart(figure: Figure, path: Path) -> None:
    canvas = FigureCanvasAgg(figure)
    figure.savefig(path)  # warnings are errors: a missing glyph or a layout that does not fit ends the test
    renderer = canvas.get_renderer()
    for axes in figure.axes:
        for labels in (axes.get_yticklabels(), axes.texts):
            boxes = [label.get_window_extent(renderer) for label in labels if label.get_text()]
            assert not any(one.overlaps(two) for one, two in combinations(boxes, 2))
            assert all(figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1) for box in boxes)
        ticks = [label.get_window_extent(renderer) for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        for title in (axes.xaxis.label, axes.yaxis.label, *figure.texts):
            box = title.get_window_extent(renderer)
            assert not any(box.overlaps(tick) for tick in ticks)
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1


@pytest.mark.parametrize("names", [CLASSES, LONG, KOREAN])
def test_figures_draw_any_names(
    names: list[str], draw_predictions: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    table = _renamed(draw_predictions(200), names)
    _assert_apart(confusion_figure(table, names), tmp_path / "confusion.png")
    _assert_apart(class_figure(cluster_bootstrap(table, names, resamples=100)), tmp_path / "classes.png")


@pytest.mark.parametrize("count", [2, 16])
def test_figures_draw_few_and_many_classes(count: int, tmp_path: Path) -> None:
    names = [f"emotion {'WM' * 4} {number}" for number in range(count)]
    label = np.arange(40 * count) % count
    guess = np.where(np.arange(40 * count) % 3 > 0, label, (label + 1) % count)
    columns = {f"prob_{name}": (guess == number).astype(float) for number, name in enumerate(names)}
    table = pd.DataFrame({"label": np.take(names, label), "predicted": np.take(names, guess), "fold": 0, **columns})
    table = table.assign(cluster=np.arange(len(table)), row=np.arange(len(table)))
    _assert_apart(confusion_figure(table, names), tmp_path / "confusion.png")
    _assert_apart(class_figure(cluster_bootstrap(table, names, resamples=100)), tmp_path / "classes.png")


def test_confusion_figure_shows_the_counts(draw_predictions: Callable[..., pd.DataFrame]) -> None:
    table = draw_predictions(200)
    shown = [text.get_text() for text in confusion_figure(table, CLASSES).axes[0].texts]
    expected = pd.crosstab(table["label"], table["predicted"]).reindex(index=CLASSES, columns=CLASSES, fill_value=0)
    assert [int(text.split("\n")[0]) for text in shown] == expected.to_numpy().ravel().tolist()
    happy = expected.loc["happy"]
    assert shown[5] == f"{happy['happy']}\n{happy['happy'] / happy.sum():.0%}"


def test_curves_mark_the_best_step(tmp_path: Path) -> None:
    curves = {"train/loss": pd.Series([2.0, 1.0], [0, 50]), "val/f1_macro": pd.Series([0.1, 0.5, 0.4], [20, 40, 60])}
    figure = curves_figure(curves)
    figure.savefig(tmp_path / "curves.png")
    lines = {line.get_label(): line for line in figure.axes[1].get_lines()}
    assert np.asarray(lines["best val/f1_macro"].get_xdata()).tolist() == [40, 40]
    assert np.asarray(lines["val/f1_macro"].get_ydata()).tolist() == [0.1, 0.5, 0.4]
    curves_figure({}).savefig(tmp_path / "empty.png")
    many = {f"val/f1_{i}": curves["val/f1_macro"] for i in range(9)} | {"epoch": pd.Series([0.0], [20])}
    axes = curves_figure(curves | many).axes[1]
    assert [line.get_label() for line in axes.get_lines()] == ["val/f1_macro", "best val/f1_macro"]


def test_text_table_is_aligned_also_in_korean(draw_predictions: Callable[..., pd.DataFrame]) -> None:
    table = _renamed(draw_predictions(300), KOREAN)
    intervals = cluster_bootstrap(table, KOREAN, resamples=100)
    lines = as_text(class_table(intervals)).splitlines()
    widths = {len(line) + sum("가" <= one <= "힣" for one in line) for line in lines}
    assert len(widths) == 1
    assert lines[0].split() == ["class", "precision", "recall", "F1", "95%", "interval", "images", "clusters"]


def test_result_names_what_it_rests_on(draw_predictions: Callable[..., pd.DataFrame]) -> None:
    table = draw_predictions(300)
    table = table.drop(table[table["label"] == "angry"].index[4:]).reset_index(drop=True)
    intervals = cluster_bootstrap(table, CLASSES, resamples=200)
    text = result_text(intervals, fold_scores(table, CLASSES))
    assert "angry *" in text
    assert "happy *" not in text
    assert "* fewer than 10 clusters, the interval is not reliable: angry." in text
    assert f"{len(table)} images in {len(table)} clusters" in text
    assert "mean of 5 folds" in text
    value = intervals.iloc[0]
    assert f"{value['value']:.3f}" in whole_table(intervals).iloc[0].tolist()
    assert "| macro F1 |" in result_text(intervals, markdown=True)
    assert r"angry \*" in as_markdown(class_table(intervals))


def test_a_leaky_protocol_stands_above_the_result(draw_predictions: Callable[..., pd.DataFrame]) -> None:
    intervals = cluster_bootstrap(draw_predictions(100), CLASSES, resamples=100)
    assert flag_protocol(intervals, HONEST) is intervals
    for markdown in (False, True):
        honest = result_text(intervals, markdown=markdown)
        leaky = result_text(flag_protocol(intervals, "selected on what is reported"), markdown=markdown)
        assert leaky == f"protocol: selected on what is reported\n\n{honest}"
        assert "protocol" not in honest
