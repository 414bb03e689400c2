"""Description and report of a run: its scores, tables and figures, and commands that can be typed."""

from collections.abc import Callable
from html.parser import HTMLParser

import pandas as pd
import pytest

from emotion.cli import detector, explain, predict, report, train
from results.predictions import classes_of, flag_protocol
from results.reports.figures import class_figure, confusion_figure
from results.reports.run_page import REPORT, next_commands, run_description, run_page, shown_tags
from results.statistics import cluster_bootstrap, fold_scores

Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]


@pytest.fixture
def tables(draw_predictions: Callable[..., pd.DataFrame]) -> Tables:
    """Predictions, intervals, and scores of the folds."""
    predictions = draw_predictions(200)
    classes = classes_of(predictions)
    intervals = cluster_bootstrap(predictions, classes, resamples=100)
    return predictions, flag_protocol(intervals, "honest"), fold_scores(predictions, classes)


def test_columns_of_the_page_name_the_worst_class(tables: Tables) -> None:
    _, intervals, _ = tables
    f1 = intervals[intervals["metric"] == "f1"].set_index("class")["value"]
    macro = intervals[intervals["metric"] == "f1_macro"].iloc[0]
    assert shown_tags(intervals) == {
        "f1_macro_interval": f"{macro['low']:.3f} to {macro['high']:.3f}",
        "worst_class": f"{f1.idxmin()} {f1.min():.3f}",
        "test_images": str(macro["images"]),
    }
    absent = intervals.copy()
    absent.loc[absent["class"] == f1.idxmin(), "images"] = 0  # a class without images has no F1
    assert shown_tags(absent)["worst_class"].split()[0] == f1.drop(f1.idxmin()).idxmin()


def test_description_has_scores_table_and_commands(tables: Tables) -> None:
    _, intervals, folds = tables
    text = run_description(intervals, folds, next_commands("run", "0123456789abcdef"))
    first, *rest = text.splitlines()
    assert first.startswith(f"**macro F1 {intervals[intervals['metric'] == 'f1_macro'].iloc[0]['value']:.3f}** (95%")
    assert "| class | precision | recall | F1 |" in text
    assert "- Classify new images: `emotion predict 01234567 IMAGES`" in rest


def test_report_is_one_page_with_figures(tables: Tables) -> None:
    predictions, intervals, folds = tables
    figures = [confusion_figure(predictions, classes_of(predictions)), class_figure(intervals)]
    tags = {"recipe": "balanced <b>", "seed": "3", "kind": "run", "identity": "abc"}
    page = run_page("a run", tags, intervals, folds, figures, next_commands("run", "0123456789abcdef"))

    seen: list[str] = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, _: seen.append(tag)  # type: ignore[method-assign]
    reader.feed(page)
    assert seen.count("svg") == 2
    assert seen.count("table") == 2
    assert not {"script", "img", "link"} & set(seen)
    assert "<dd>balanced &lt;b&gt;</dd>" in page
    assert "<code>emotion report certify 01234567</code>" in page
    assert "identity" not in page
    leaky = run_page("a run", tags, flag_protocol(intervals, "paper"), folds, [], [])
    assert "Protocol paper" in leaky


def test_artifacts_begin_with_the_report() -> None:
    logged = ["checkpoint", "config.yaml", "environment.json", "figures", "per_class.csv", "result.md", "tables"]
    assert sorted([*logged, REPORT])[0] == REPORT  # the order of MLflow's stores


@pytest.mark.parametrize("kind", ["run", "cross-validation", "evaluation", "detector"])
def test_next_commands_are_commands(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command is accepted by the parser that it names; nothing is run."""
    modules = {"predict": predict, "evaluate": predict, "explain": explain, "report": report, "reproduce": train}
    modules |= {"export": predict, "detector": detector}
    commands = next_commands(kind, "0123456789abcdef")
    assert commands

    class ParsedError(Exception):
        pass

    for _, command in commands:
        program, *words = command.split()
        assert program == "emotion"
        parsed: list[str] = []
        whole = modules[words[0]].Parser.parse_args

        def parse(self: object, args: list[str], whole: object = whole, parsed: list[str] = parsed) -> None:
            whole(self, args)  # type: ignore[operator]
            parsed.extend(args)
            raise ParsedError

        with monkeypatch.context() as patched:
            patched.setattr(modules[words[0]].Parser, "parse_args", parse)
            with pytest.raises(ParsedError):
                modules[words[0]].main(words)
        assert parsed == words[-len(parsed) :]


def test_kinds_without_predictions_have_no_commands() -> None:
    assert next_commands("trial", "0123456789abcdef") == []
