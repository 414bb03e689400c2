"""Train recipes on FER2013's official split; each finished run adds a row to ``docs/results/fer2013.csv``.

    python -m benchmarks.fer2013 --data fer2013.zip --work FOLDER --recipes baseline strong --seeds 0 1 2

Training is trained on, without near-duplicates of PublicTest, which is reported and selects nothing; PrivateTest is not
used. Every run is one `emotion fit`, whose command is in the row. What the CSV has is not run again, a finished run in
FOLDER is not trained again, and a stopped one is resumed, so that the same command continues after any stop.
"""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.ablation import append, read_rows, run_emotion
from results.compare import ComparedRun, compare
from results.reports.figures import COLOURS, STYLES, drawable, fonts
from results.tracking.runs import find_runs, load_table
from results.tracking.store import DIRECTORY

TABLE = Path(__file__).resolve().parent.parent / "docs" / "results" / "fer2013.csv"
COLUMNS = ("recipe", "data", "seed", "macro_f1", "low", "high", "accuracy", "minutes", "commit", "command")
DATA = "FER2013, Training without near-duplicates to PublicTest"
EXPERIMENT = "fer2013"
PUBLIC = "validation"  # what the reader calls PublicTest
BASE = "baseline"  # what the others are compared with
SAME_STEPS = {"balanced": ["--trainer.limit_train_batches", "205"]}  # over-sampling must not buy more steps


@dataclass(frozen=True)
class Row:
    """One row of the table: a recipe and a seed, or the mean of the networks of several seeds."""

    recipe: str
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, line: dict[str, str]) -> "Row":
        """Return the row that a line of the CSV is about."""
        return cls(line["recipe"].split(",")[0], tuple(map(int, line["seed"].split())))

    @property
    def name(self) -> str:
        """What stands in the column recipe."""
        return self.recipe if len(self.seeds) == 1 else f"{self.recipe}, mean of {len(self.seeds)} networks"

    @property
    def seed(self) -> str:
        """What stands in the column seed."""
        return " ".join(map(str, self.seeds))

    def words(self, data: str, runs: Sequence[str]) -> list[str]:
        """Words of the command of `emotion`.

        Args:
            data: FER2013.
            runs: The networks that a mean is made of.
        """
        if runs:
            return ["evaluate", *runs, "--ensemble", "--data", data, "--part", PUBLIC, "--experiment", self.experiment]
        split = ["--split", "given", "--drop-twins", "--seed", self.seed, *SAME_STEPS.get(self.recipe, [])]
        return ["fit", "--recipe", self.recipe, "--data", data, *split, "--run.experiment", self.experiment]

    @property
    def experiment(self) -> str:
        """MLflow experiment of its run."""
        return EXPERIMENT if len(self.seeds) == 1 else f"{EXPERIMENT}-{self.recipe}-{len(self.seeds)}"

    def run(self) -> "pd.Series[Any] | None":
        """Return the row of its newest finished run in the store below the current folder; None without one."""
        runs = find_runs(self.experiment) if Path(DIRECTORY).exists() else pd.DataFrame()
        if runs.empty:
            return None
        found = runs[runs["status"] == "FINISHED"]
        if len(self.seeds) == 1:
            found = found[(found["tags.recipe"] == self.recipe) & (found["tags.seed"].astype(str) == self.seed)]
        return None if found.empty else found.iloc[0]

    def finished(self) -> "pd.Series[Any]":
        """Return the row of its finished run.

        Raises:
            SystemExit: There is none.
        """
        run = self.run()
        if run is None:
            sys.exit(f"error: --work: has no finished run of {self.recipe}, seed {self.seed}; train it first")
        return run


def measure(row: Row, data: str, work: Path) -> dict[str, str]:
    """Train or average what a row is about, unless that is done; return the row of the table.

    Minutes are processor time over cores where it was trained now, else those between start and end of the run.
    """
    runs, minutes = [], None
    with contextlib.chdir(work):
        if len(row.seeds) > 1:
            runs = [Row(row.recipe, (seed,)).finished()["run_id"] for seed in row.seeds]
        if row.run() is None:
            resume = [] if runs else ["--trainer.enable_progress_bar", "false", "--resume", "auto"]
            minutes = run_emotion([*row.words(data, runs), *resume], work)
        run = row.finished()
        table = load_table(run["run_id"], "intervals")
    whole = table[table["class"] == ""].set_index("metric")
    minutes = (run["end"] - run["start"]).total_seconds() / 60 if minutes is None else minutes
    return {
        "recipe": row.name,
        "data": DATA,
        "seed": row.seed,
        "macro_f1": f"{whole.at['f1_macro', 'value']:.4f}",
        "low": f"{whole.at['f1_macro', 'low']:.4f}",
        "high": f"{whole.at['f1_macro', 'high']:.4f}",
        "accuracy": f"{whole.at['accuracy', 'value']:.4f}",
        "minutes": f"{minutes:.1f}",
        "commit": str(run["tags.git_commit"])[:12],
        "command": shlex.join(["emotion", *row.words("fer2013.zip", [f"RUN_{seed}" for seed in row.seeds if runs])]),
    }


def markdown(rows: Sequence[dict[str, str]], work: Path) -> Iterator[str]:
    """Return lines of Markdown: scores of each row and class, means over seeds, and differences from the baseline."""
    known = [Row.of(row) for row in rows]
    scores, tables = (_tables(known, name, work) for name in ("intervals", "predictions"))
    classes = [name for name in dict.fromkeys(next(iter(scores.values()))["class"]) if name]
    yield f"| recipe | seed | accuracy | macro F1 | {' | '.join(classes)} |"
    yield "|---" * (4 + len(classes)) + "|"
    f1 = {row: table[table["metric"] == "f1"].set_index("class")["value"] for row, table in scores.items()}
    for row, table in scores.items():
        whole = table[table["class"] == ""].set_index("metric")
        cells = [f"`{row.recipe}`{row.name.removeprefix(row.recipe)}", row.seed]
        for metric in ("accuracy", "f1_macro"):
            value, low, high = whole.loc[metric, ["value", "low", "high"]]
            cells.append(_short(f"{value:.3f} ({low:.3f}-{high:.3f})"))
        yield f"| {' | '.join([*cells, *(_short(f'{f1[row][name]:.3f}') for name in classes)])} |"
    yield ""
    for recipe in dict.fromkeys(row.recipe for row in known):
        single = [each for each in rows if each["recipe"] == recipe]
        if len(single) > 1:
            columns = pd.DataFrame(single)[["accuracy", "macro_f1", "minutes"]].astype(float)
            mean, spread = columns.mean(), columns.std(ddof=1)
            yield _short(
                f"`{recipe}`, {len(single)} seeds, mean ± standard deviation: accuracy {mean['accuracy']:.4f} ± "
                f"{spread['accuracy']:.4f}, macro F1 {mean['macro_f1']:.4f} ± {spread['macro_f1']:.4f}, "
                f"{mean['minutes']:.0f} minutes"
            )
    yield ""
    for row in known:
        base = Row(BASE, row.seeds)
        if row.recipe != BASE and base in tables:
            pairs = compare([ComparedRun(BASE, tables[base]), ComparedRun(row.recipe, tables[row])]).pairs
            texts = [
                f"{name} {pair.difference:+.3f} ({pair.low:+.3f} to {pair.high:+.3f})"
                for name, pair in zip(("macro F1", "accuracy"), pairs.itertuples(), strict=False)
            ]
            yield _short(f"`{row.recipe}` minus `{BASE}`, seed {row.seed}: {', '.join(texts)}")


def _tables(rows: Sequence[Row], name: str, work: Path) -> dict[Row, pd.DataFrame]:
    with contextlib.chdir(work):
        return {row: load_table(row.finished()["run_id"], name) for row in rows}


def figure(rows: Sequence[dict[str, str]], work: Path) -> Figure:
    """Draw F1 of each class and macro F1: a dot per seed, a bar at their mean, a diamond for the mean of networks."""
    known = [Row.of(row) for row in rows]
    scores = _tables(known, "intervals", work)
    values = {  # F1 of each class, then macro F1
        row: table[table["metric"].isin(["f1", "f1_macro"])].set_index("class")["value"]
        for row, table in scores.items()
    }
    classes = sorted(next(iter(values.values())).index, key=lambda name: name == "")
    recipes = list(dict.fromkeys(row.recipe for row in known))
    drawn = Figure(figsize=(8, 1.4 + 0.62 * len(classes)), layout="constrained")
    axes = drawn.add_subplot()
    apart = 0.7 / len(recipes)
    for number, recipe in enumerate(recipes):
        colour = COLOURS[number % len(COLOURS)]
        places = np.arange(len(classes)) + (number - (len(recipes) - 1) / 2) * apart
        single = pd.DataFrame([values[row] for row in known if row.recipe == recipe and len(row.seeds) == 1])[classes]
        axes.plot(single.T, places, "o", ms=5, color=colour, alpha=0.7, label=[recipe, *[None] * (len(single) - 1)])
        axes.vlines(single.mean(), places - 0.4 * apart, places + 0.4 * apart, color=colour, lw=2)
        for row in known:
            if row.recipe == recipe and len(row.seeds) > 1:
                axes.plot(values[row][classes], places, "D", ms=7, mfc="none", color=colour, label=row.name)
    axes.set_yticks(range(len(classes)), [*drawable(classes[:-1]), "macro F1"], family=fonts())
    axes.axhline(len(classes) - 1.5, color="black", lw=0.8, ls=STYLES[1])
    axes.invert_yaxis()
    axes.set_xlabel("F1 on PublicTest (dot: one network; line: mean over seeds)")
    axes.grid(alpha=0.3, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    drawn.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return drawn


def _short(text: str) -> str:
    """Return a text whose numbers below 1 have no leading zero."""
    for before in (" ", "(", "-", "+"):
        text = text.replace(f"{before}0.", f"{before}.")
    return text.removeprefix("0") if text.startswith("0.") else text


def main(args: list[str] | None = None) -> int:
    """Run what the CSV lacks, or print what it has as tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fer2013", description=__doc__)
    parser.add_argument("--data", help="FER2013, such as fer2013.zip")
    parser.add_argument("--work", required=True, type=Path, help="folder of the runs")
    parser.add_argument("--table", type=Path, default=TABLE, help="the CSV")
    parser.add_argument("--recipes", nargs="+", default=["baseline", "balanced", "strong"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--ensemble", action="store_true", help="only the mean of the networks of all seeds")
    parser.add_argument("--markdown", action="store_true", help="print the CSV as tables; no training")
    parser.add_argument("--figure", type=Path, help="write F1 of each class as a PNG of this name; no training")
    given = parser.parse_args(args)
    work = given.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    if given.figure:
        figure(read_rows(given.table), work).savefig(given.figure, dpi=130)
        return 0
    if given.markdown:
        print(*markdown(read_rows(given.table), work), sep="\n")
        return 0
    if given.data is None:
        parser.error("--data: is needed to train; name FER2013, such as fer2013.zip")
    data = str(Path(given.data).absolute())
    seeds = [tuple(given.seeds)] if given.ensemble else [(seed,) for seed in given.seeds]
    for row in [Row(recipe, each) for each in seeds for recipe in given.recipes]:
        known = {(line["recipe"], line["seed"]) for line in read_rows(given.table)}
        if (row.name, row.seed) not in known:
            append(given.table, line := measure(row, data, work))
            print(*(line[name] for name in COLUMNS[:-1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
