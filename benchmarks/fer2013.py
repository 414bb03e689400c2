"""Train recipes on FER2013's official split; each finished run adds a row to ``docs/results/fer2013.csv``.

    python -m benchmarks.fer2013 --data fer2013.zip --work FOLDER --recipes baseline strong --seeds 0 1 2

Trains on FER2013's Training images without near-duplicates of PublicTest, and tests on PublicTest, which selects no
epoch. PrivateTest is not used.

Every run is one `emotion fit`, whose command and run id are in the row. What the CSV has is not run again, a finished
run in FOLDER with the same options and images is not trained again, and a stopped one is resumed, so that the same
command continues after any stop.
"""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.ablation import (
    announce,
    append,
    check_seeds,
    finished_run,
    plain_errors,
    read_rows,
    run_emotion,
    show,
    without_zeros,
)
from datamodules.errors import invalid
from lightning_modules.config import RunConfig, data_module
from results.compare import ComparedRun, compare
from results.reports.figures import COLOURS, STYLES, drawable, fonts
from results.tracking.runs import find_runs, load_table, run_row

TABLE = Path(__file__).resolve().parent.parent / "docs" / "results" / "fer2013.csv"
COLUMNS = (
    *("recipe", "data", "seed", "macro_f1", "low", "high", "accuracy", "minutes", "commit"),
    *("run", "command"),
)
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

    def run(self, words: Sequence[str], networks: Sequence[str]) -> str | None:
        """Return the id of its newest finished run in the store below the current folder; None without one.

        Args:
            words: Its command.
            networks: Ids of the runs that a mean is made of.
        """
        if not networks:
            return finished_run(words)
        same = f"tags.model_runs = '{','.join(networks)}' and attributes.status = 'FINISHED'"
        found = find_runs(self.experiment, where=same)
        return None if found.empty else str(found.iloc[0]["run_id"])


def measure(row: Row, data: str, work: Path, networks: Sequence[str] = ()) -> dict[str, str]:
    """Train or average what a row is about, unless that is done; return the row of the table.

    Minutes are processor time over cores where it was trained now, else those between start and end of the run.

    Args:
        row: What to measure.
        data: FER2013.
        work: Folder of the runs.
        networks: Ids of the runs that a mean is made of.
    """
    minutes, more = None, [] if networks or not _has_private_test(data) else ["--data.outer", PUBLIC]
    words = [*row.words(data, networks), *more]
    with contextlib.chdir(work):
        run_id = row.run(words, networks)
        if run_id is None:
            resume = [] if networks else ["--trainer.enable_progress_bar", "false", "--resume", "auto"]
            minutes = run_emotion([*words, *resume], work)
            run_id = row.run(words, networks)
            assert run_id is not None  # the command ended without an error
        run = run_row(run_id)
        table = load_table(run_id, "intervals")
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
        "run": run_id,
        "command": shlex.join(
            ["emotion", *row.words("fer2013.zip", [f"RUN_{seed}" for seed in row.seeds if networks]), *more]
        ),
    }


def _has_private_test(data: str) -> bool:
    """Say whether a data set has a part `test`, as the whole FER2013 has: that would be reported on, not PublicTest."""
    manifest = data_module(RunConfig.resolve(["--data", data, "--split", "given"])).manifest
    return "split" in manifest.table and bool((manifest.table["split"] == "test").any())


def _networks(row: Row, lines: Sequence[dict[str, str]]) -> list[str]:
    """Return the ids of the runs that a mean is made of.

    Raises:
        SystemExit: The CSV lacks one.
    """
    runs = {(line["recipe"], line["seed"]): line["run"] for line in lines}
    for seed in row.seeds:
        if (row.recipe, str(seed)) not in runs:
            sys.exit(f"error: --seeds: no row of {row.recipe} with seed {seed} yet; leave --ensemble out first")
    return [runs[row.recipe, str(seed)] for seed in row.seeds]


def markdown(rows: Sequence[dict[str, str]], work: Path) -> Iterator[str]:
    """Return lines of Markdown: scores of each row and class, means over seeds, and differences from the baseline."""
    known = [Row.of(row) for row in rows]
    scores, tables = (_tables(rows, name, work) for name in ("intervals", "predictions"))
    classes = [name for name in dict.fromkeys(next(iter(scores.values()))["class"]) if name]
    yield f"| recipe | seed | accuracy | macro F1 | {' | '.join(classes)} |"
    yield "|---" * (4 + len(classes)) + "|"
    f1 = {row: table[table["metric"] == "f1"].set_index("class")["value"] for row, table in scores.items()}
    for row, table in scores.items():
        whole = table[table["class"] == ""].set_index("metric")
        cells = [f"`{row.recipe}`{row.name.removeprefix(row.recipe)}", row.seed]
        for metric in ("accuracy", "f1_macro"):
            value, low, high = whole.loc[metric, ["value", "low", "high"]]
            cells.append(without_zeros(f"{value:.3f} ({low:.3f}-{high:.3f})"))
        yield f"| {' | '.join([*cells, *(without_zeros(f'{f1[row][name]:.3f}') for name in classes)])} |"
    yield ""
    for recipe in dict.fromkeys(row.recipe for row in known):
        single = [each for each in rows if each["recipe"] == recipe]
        if len(single) > 1:
            columns = pd.DataFrame(single)[["accuracy", "macro_f1", "minutes"]].astype(float)
            mean, spread = columns.mean(), columns.std(ddof=1)
            yield without_zeros(
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
            yield without_zeros(f"`{row.recipe}` minus `{BASE}`, seed {row.seed}: {', '.join(texts)}")


def _tables(rows: Sequence[dict[str, str]], name: str, work: Path) -> dict[Row, pd.DataFrame]:
    with contextlib.chdir(work):
        return {Row.of(row): load_table(row["run"], name) for row in rows}


def figure(rows: Sequence[dict[str, str]], work: Path) -> Figure:
    """Draw F1 of each class and macro F1: a dot per seed, a bar at their mean, a diamond for the mean of networks."""
    known = [Row.of(row) for row in rows]
    scores = _tables(rows, "intervals", work)
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


def main(args: list[str] | None = None) -> int:
    """Run what the CSV lacks, or print what it has as tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fer2013", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="FER2013, such as fer2013.zip")
    parser.add_argument("--work", required=True, type=Path, help="folder of the runs")
    parser.add_argument("--table", type=Path, default=TABLE, help="the CSV")
    parser.add_argument("--recipes", nargs="+", default=["baseline", "balanced", "strong"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--ensemble", action="store_true", help="train nothing; evaluate the mean of the answers of all --seeds"
    )
    parser.add_argument("--dry-run", action="store_true", help="list what the CSV lacks; no training")
    what = "from the runs in FOLDER that the CSV names; no training"
    parser.add_argument("--markdown", action="store_true", help=f"print tables of scores and differences, {what}")
    parser.add_argument("--figure", type=Path, help=f"write F1 of each class as a PNG of this name, {what}")
    given = parser.parse_args(args)
    if given.data is None and not (given.markdown or given.figure or given.dry_run):
        parser.error("--data: is needed to train; name FER2013, such as fer2013.zip")
    with plain_errors():
        _main(given)
    return 0


def _main(given: argparse.Namespace) -> None:
    work, rows = given.work.absolute(), read_rows(given.table, COLUMNS)
    if show(given, rows, figure, markdown):
        return
    check_seeds(given.seeds)
    if given.ensemble and len(given.seeds) < 2:
        raise invalid("--seeds", "must be at least two with --ensemble", given.seeds[0])
    seeds = [tuple(given.seeds)] if given.ensemble else [(seed,) for seed in given.seeds]
    asked = [Row(recipe, each) for each in seeds for recipe in given.recipes]
    done = {(line["recipe"], line["seed"]) for line in rows}
    missing = [row for row in asked if (row.name, row.seed) not in done]
    announce([f"{row.name}, seed {row.seed}" for row in missing], len(asked), given.table)
    if given.dry_run or not missing:
        return
    work.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(missing, 1):
        print(f"{number} of {len(missing)}: {row.name}, seed {row.seed}", file=sys.stderr, flush=True)
        networks = _networks(row, read_rows(given.table, COLUMNS)) if len(row.seeds) > 1 else []
        append(given.table, line := measure(row, str(Path(given.data).absolute()), work, networks))
        print(*(line[name] for name in COLUMNS[:-1]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
