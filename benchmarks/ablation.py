"""Measure the parts of a recipe one by one on a small proxy; each adds a row to ``docs/results/ablation.csv``.

    python -m benchmarks.ablation --data fer2013.zip --work FOLDER

Half of FER2013's Training images are divided into three folds: two are trained on for six epochs, one is tested on.
Neither PublicTest nor PrivateTest is read. A part is a set of options of `emotion fit`, added to the base. The parts
with FER+ labels need the annotators' votes in the data, and are compared with a base of the same labels.

A row is one `emotion fit`, or the mean of three of the base ("ensemble of three seeds", "soup of three seeds"); its
command and run id are in it. What the CSV already has is not run again, a finished run in FOLDER with the same options
and images is not trained again, and a stopped one is resumed, so that the same command continues after any stop.
"""

import argparse
import contextlib
import csv
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read at import: it would ask the network for a newer one

import pandas as pd
from matplotlib.figure import Figure

from datamodules.errors import InputError, invalid
from lightning_modules.config import RunConfig, data_module
from lightning_modules.training import prepare, with_run_ids
from results.compare import ComparedRun, compare, difference_figure
from results.tracking.runs import find_runs, load_table, run_row
from results.tracking.store import DIRECTORY

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "results" / "ablation.csv"
COLUMNS = (
    *("part", "recipe", "data", "seed", "macro_f1", "low", "high", "accuracy", "minutes", "commit"),
    *("run", "command"),
)
RECIPE = "baseline"
DATA = "FER2013 Training, half, fold 0 of 3"
TRAINING = "training.csv"  # a manifest of the Training part alone
VOTED = "voted.csv"  # its images with FER+'s votes, without those that most annotators call no emotion
BASE = (
    "--split folds --data.folds 3 --data.fold 0 --data.read.part 0.5 --data.size 48 --data.num_workers 1 "
    "--trainer.max_epochs 6 --trainer.enable_progress_bar false"
)
PARTS = {
    "base": "",
    "stem stride 1": "--model.stem_stride 1",
    "64 px": "--data.size 64",
    "cutmix": "--model.cutmix 1.0",
    "progressive from 32, stem stride 1": "--model.stem_stride 1 --model.progressive_from 32",
    "12 epochs": "--trainer.max_epochs 12",
    "SAM": "--model.sam_radius 0.05",
    "erasing": "--data.erasing 0.25",
    "layer decay 0.85": "--model.layer_decay 0.85",
    "RandAugment": "--data.policy rand_augment --data.transform_where all",
    "mixup": "--model.mixup 0.2",
    "mixup, last 2 epochs without": "--model.mixup 0.2 --model.unmixed_epochs 2",
    "cutmix, last 2 epochs without": "--model.cutmix 1.0 --model.unmixed_epochs 2",
    "ten views": "--model.shift_at_test 0.06",
    "average over a third of the steps": "--run.ema_decay 0.9999 --run.ema_warmup 4",
    "no average": "--run.ema_decay null",
    "AugMix": "--data.policy aug_mix --data.transform_where all",
    "TrivialAugment": "--data.policy trivial_augment --data.transform_where all",
    "96 px": "--data.size 96",
    "24 epochs": "--trainer.max_epochs 24",
    "progressive from 32": "--model.progressive_from 32",
    "drop path": "--model.drop_path 0.1",
    "dropout": "--model.dropout 0.3",
    "no smoothing": "--model.loss.label_smoothing 0.0",
    "learning rate 0.001": "--model.learning_rate 0.001",
    "learning rate 0.004": "--model.learning_rate 0.004",
}
"""Name of a part to the options of `emotion fit` that it adds to the base; the most promising come first."""
# what recipe strong adds to the base, and what it added at first
STRONG = (
    "--model.stem_stride 1 --data.size 64 --data.policy rand_augment --data.transform_where all "
    "--trainer.max_epochs 8 --run.ema_decay 0.995 --model.shift_at_test 0.06"
)
FIRST_STRONG = (
    "--model.stem_stride 1 --model.progressive_from 32 --trainer.max_epochs 12 --run.ema_decay 0.998 "
    "--model.shift_at_test 0.06"
)
PARTS |= {
    "stem stride 1, 64 px": "--model.stem_stride 1 --data.size 64",
    "stem stride 1, mixup": "--model.stem_stride 1 --model.mixup 0.2",
    "stem stride 1, drop path and dropout": "--model.stem_stride 1 --model.drop_path 0.1 --model.dropout 0.3",
    "stem stride 1, RandAugment": f"--model.stem_stride 1 {PARTS['RandAugment']}",
    "options of strong (first)": FIRST_STRONG,
    "options of strong": STRONG,
    "options of strong, mixup": f"{STRONG} --model.mixup 0.2 --model.unmixed_epochs 2",
    "options of strong, drop path and dropout": f"{STRONG} --model.drop_path 0.1 --model.dropout 0.3",
}
_TEACHERS = {f"inner-fold-{fold}": f"--data.inner_folds 3 --data.inner_fold {fold}" for fold in range(3)}
PARTS |= _TEACHERS | {
    "teacher of three inner folds": f"--run.teacher [{','.join(f'{{{name}}}' for name in _TEACHERS)}]"
}
# eight classes by the majority of FER+'s annotators, and another half of the images: these have a base of their own
VOTED_BASE = "FER+ labels"
PARTS |= {
    VOTED_BASE: f"--data {VOTED} --votes majority",
    "FER+ labels, soft targets": f"--data {VOTED} --votes soft",
}
REPORTED = "reported.csv"  # a manifest of the images that the base reports on
SOUP = "soup.ckpt"
COMBINED = {
    "ensemble of three seeds": ["evaluate {base 0} {base 1} {base 2} --ensemble"],
    "soup of three seeds": [f"soup {{base 0}} {{base 1}} {{base 2}} --output {SOUP}", f"evaluate {SOUP}"],
}
"""Name of a part to commands that use runs: {base 1} is the run of part base with seed 1, {base} that of this seed."""


@dataclass(frozen=True)
class Cell:
    """One run of the ablation: a part and a seed."""

    part: str
    seed: int

    @property
    def words(self) -> list[str]:
        """Words of `emotion fit`; the names of runs stand in braces."""
        return [
            *("fit", "--recipe", RECIPE, "--data", TRAINING, *BASE.split(), *PARTS[self.part].split()),
            *("--seed", str(self.seed), "--run.name", f"{self.part} seed {self.seed}", "--run.experiment", "ablation"),
        ]

    @property
    def voted(self) -> bool:
        """Whether its labels are those of FER+'s annotators."""
        return f"--data {VOTED}" in PARTS.get(self.part, "")

    @property
    def base(self) -> "Cell":
        """What it is compared with: the base of the same seed and the same labels."""
        return Cell(VOTED_BASE if self.voted else "base", self.seed)

    @property
    def commands(self) -> list[list[str]]:
        """Commands of `emotion` that measure it, without the folders of this machine."""
        if self.part not in COMBINED:
            return [self.words]
        texts = COMBINED[self.part]
        last = f"{texts[-1]} --data {REPORTED} --experiment {self.experiment}"
        return [re.findall(r"\{.*?\}|\S+", text) for text in [*texts[:-1], last]]

    @property
    def experiment(self) -> str:
        """MLflow experiment of its run."""
        return f"ablation-{self.part.replace(' ', '-')}" if self.part in COMBINED else "ablation"

    def filled(self, word: str, runs: Mapping["Cell", str]) -> str:
        """Return a word with the ids of the runs that stand in braces.

        Args:
            word: One word of a command.
            runs: Ids of the runs that the CSV has.

        Raises:
            SystemExit: The CSV has no row of a run in braces.
        """

        def run_id(match: re.Match[str]) -> str:
            name, _, seed = match[1].rpartition(" ")
            cell = Cell(name, int(seed)) if seed.isdigit() else Cell(match[1], self.seed)
            if cell not in runs:
                sys.exit(
                    f"error: --parts: {self.part!r} uses the run of {cell.part!r} with seed {cell.seed}, which has no "
                    f"row yet; measure it first with --parts {shlex.quote(cell.part)} --seeds {cell.seed}"
                )
            return runs[cell]

        return re.sub(r"\{(.*?)\}", run_id, word)


def training_part(data: str, work: Path, *, voted: bool = False) -> None:
    """Write a manifest of the images of a data set's training part, without its given split.

    Args:
        data: The data set.
        work: Folder of the manifest.
        voted: With annotators' votes, and labels by their majority.
    """
    training, whole = (work / VOTED, work / "whole-voted.csv") if voted else (work / TRAINING, work / "whole.csv")
    if training.exists():
        return
    if not whole.exists():
        votes = ["--votes", "soft"] if voted else []
        run_emotion(["data", "prepare", "--data", data, *votes, "--output", str(whole)], work)
    table = pd.read_csv(whole, dtype=str, keep_default_na=False)
    if "split" not in table or not (table["split"] == "train").any():
        raise invalid("--data", "must have a given split with a train part, as FER2013 has", data, "give fer2013.zip")
    shutil.copyfile(f"{whole}.json", f"{training}.json")  # names the folder of the images, and the classes
    table[table["split"] == "train"].drop(columns="split").to_csv(training, index=False)


def run_emotion(words: Sequence[str], work: Path) -> float:
    """Run a command of ours in a folder; return its processor time in minutes, divided by the usable cores.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    before = _processor_time()
    subprocess.run(
        [sys.executable, "-m", "emotion", *words], cwd=work, env=os.environ | {"PYTHONPATH": path}, check=True
    )
    return (_processor_time() - before) / 60 / len(os.sched_getaffinity(0))


def _processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def recorded(table: Path) -> dict[Cell, str]:
    """Return the ids of the runs of the CSV's rows."""
    return {Cell(row["part"], int(row["seed"])): row["run"] for row in read_rows(table)}


def finished_run(words: Sequence[str]) -> str | None:
    """Return the id of the newest finished run with the options and images of a command; None without one.

    Args:
        words: Words of `emotion fit`. Data and runs are looked for in the current folder.
    """
    if not Path(DIRECTORY).exists():
        return None
    config = with_run_ids(RunConfig.resolve(words[1:]))
    data = data_module(config)
    prepare(data)
    same = f"tags.identity = '{config.identity(data.content_hash)}' and attributes.status = 'FINISHED'"
    runs = find_runs(where=same)
    return None if runs.empty else str(runs.iloc[0]["run_id"])


def read_rows(table: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """Return the rows of the CSV of a benchmark; none if it does not exist.

    Args:
        table: The CSV.
        columns: Its columns, in this order.

    Raises:
        InputError: It is not such a CSV, or a row is broken.
    """
    if not table.exists():
        return []
    try:
        with table.open(newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            rows, names = list(reader), reader.fieldnames
        if tuple(names or ()) != tuple(columns):
            reason = f"its first line must be {','.join(columns)}"
        else:
            wrong = [row for row in rows if None in row or None in row.values() or not _SEEDS.fullmatch(row["seed"])]
            reason = f"row {rows.index(wrong[0]) + 1} has too many or too few columns, or no seed" if wrong else ""
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        rows, reason = [], str(error)
    if reason:
        hint = "restore it, such as with `git checkout`, or give --table another file"
        raise invalid("--table", f"must be a CSV that this benchmark wrote ({reason})", str(table), hint)
    return rows


_SEEDS = re.compile(r"\d+( \d+)*")


def check_seeds(seeds: Sequence[int]) -> None:
    """Check the option --seeds.

    Raises:
        InputError: A seed is repeated or below 0.
    """
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise invalid("--seeds", "must be different whole numbers of at least 0", " ".join(map(str, seeds)))


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """End the program with one line for wrong input, and for a command of ours that failed."""
    try:
        yield
    except InputError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        # its words begin with Python, -m, emotion
        sys.exit(f"error: status {error.returncode} of `emotion {shlex.join(error.cmd[3:])}`; its output is above")


def measure(cell: Cell, work: Path, runs: Mapping[Cell, str]) -> dict[str, str]:
    """Train and evaluate one cell, unless that is done; return its row.

    Minutes are processor time over cores where it was trained now, else those between start and end of the run.

    Args:
        cell: The part and the seed.
        work: Folder of the manifest and of the runs.
        runs: Ids of the runs that the CSV has.
    """
    minutes = 0.0
    commands = [[cell.filled(word, runs) for word in words] for words in cell.commands]
    if cell.part in COMBINED:
        _reported_images(work, runs[Cell("base", 0)])
    with contextlib.chdir(work):
        run_id = _run_of(cell, commands)
    if run_id is None:
        if cell.part in COMBINED:
            (work / SOUP).unlink(missing_ok=True)  # of a measurement that was stopped
        for words in commands:
            minutes += run_emotion([*words, *(("--resume", "auto") if words[0] == "fit" else ())], work)
    with contextlib.chdir(work):
        run_id = run_id or _run_of(cell, commands)
        assert run_id is not None  # the command ended without an error
        run = run_row(run_id)
        scores = load_table(run_id, "intervals")
    whole = scores[scores["class"] == ""].set_index("metric")
    return {
        "part": cell.part,
        "recipe": RECIPE,
        "data": f"{DATA}, FER+ labels" if cell.voted else DATA,
        "seed": str(cell.seed),
        **{name: f"{whole.at['f1_macro', column]:.4f}" for name, column in _SCORES.items()},
        "accuracy": f"{whole.at['accuracy', 'value']:.4f}",
        "minutes": f"{minutes or (run['end'] - run['start']).total_seconds() / 60:.1f}",
        "commit": str(run["tags.git_commit"])[:12],
        "run": run_id,
        "command": "; ".join(" ".join(["emotion", *map(_quoted, words)]) for words in cell.commands),
    }


def _quoted(word: str) -> str:
    return word if word.startswith("{") else shlex.quote(word)


def _reported_images(work: Path, base: str) -> None:
    """Write a manifest of the images that the run of the base reports on, for `emotion evaluate`."""
    with contextlib.chdir(work):
        predictions = load_table(base, "predictions")
    table = pd.read_csv(work / TRAINING, dtype=str, keep_default_na=False)
    table[table["path"].isin(predictions["path"])].to_csv(work / REPORTED, index=False)
    shutil.copyfile(work / f"{TRAINING}.json", work / f"{REPORTED}.json")


_SCORES = {"macro_f1": "value", "low": "low", "high": "high"}


def _run_of(cell: Cell, commands: Sequence[Sequence[str]]) -> str | None:
    """Return the id of the newest finished run of a cell in the store below the current folder; None without one."""
    if cell.part not in COMBINED:
        return finished_run(commands[0])
    runs = find_runs(cell.experiment, where="attributes.status = 'FINISHED'")
    return None if runs.empty else str(runs.iloc[0]["run_id"])


def append(table: Path, row: dict[str, str]) -> None:
    """Add a row at the end of the CSV.

    Raises:
        InputError: The CSV has other columns.
    """
    new = not table.exists()
    read_rows(table, tuple(row))
    with table.open("a", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def markdown(rows: Sequence[dict[str, str]], work: Path) -> Iterator[str]:
    """Return lines of a Markdown table: scores of each row, and minus the base of the same seed, paired by image."""
    yield "| part | seed | macro F1 | accuracy | minutes | macro F1 minus base | accuracy minus base | options |"
    yield "|---|---|---|---|---|---|---|---|"
    cells = [Cell(row["part"], int(row["seed"])) for row in rows]
    with contextlib.chdir(work):
        tables = {cell: load_table(row["run"], "predictions") for cell, row in zip(cells, rows, strict=True)}
    for cell, row in zip(cells, rows, strict=True):
        base, difference = tables.get(cell.base), ["", ""]
        if base is not None and cell != cell.base:
            runs = [ComparedRun(cell.base.part, base), ComparedRun(cell.part, tables[cell])]
            pairs = compare(runs, permutations=99).pairs  # macro F1, then accuracy
            difference = [
                f"{each.difference:+.3f} ({each.low:+.3f} to {each.high:+.3f})" for each in pairs.itertuples()
            ]
        score = f"{float(row['macro_f1']):.3f} ({float(row['low']):.3f}-{float(row['high']):.3f})"
        numbers = [without_zeros(text) for text in (score, f"{float(row['accuracy']):.3f}", *difference)]
        numbers.insert(2, row["minutes"])
        options = f"`{PARTS[cell.part]}`" if PARTS.get(cell.part) else ""
        yield f"| {' | '.join([cell.part, row['seed'], *numbers, options])} |"


def without_zeros(text: str) -> str:
    """Return a text whose numbers below 1 have no leading zero."""
    return re.sub(r"(?<!\d)0\.", ".", text)


def figure(rows: Sequence[dict[str, str]], work: Path) -> Figure:
    """Draw macro F1 of each part minus the base, seed 0, with intervals; the best part comes first.

    Rows with FER+ labels are left out, since they report on other images.

    Raises:
        InputError: There is no such row beside the base.
    """
    best = sorted(rows, key=lambda row: -float(row["macro_f1"]))
    shown = [row for row in best if row["seed"] == "0" and not Cell(row["part"], 0).voted]
    shown.sort(key=lambda row: row["part"] != "base")
    if len(shown) < 2:
        rule = "must have at least two rows of seed 0 to draw (those with FER+ labels are left out)"
        raise invalid("--table", rule, len(shown), "measure base and another part first")
    with contextlib.chdir(work):
        runs = [ComparedRun(row["part"], load_table(row["run"], "predictions")) for row in shown]
    return difference_figure(compare(runs))


def main(args: list[str] | None = None) -> int:
    """Run what the CSV lacks, or print what it has as a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", help="FER2013, such as fer2013.zip; needed by the first run")
    parser.add_argument("--work", required=True, type=Path, help="folder of the manifest and of the runs")
    parser.add_argument("--table", type=Path, default=TABLE, help="the CSV")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=[*PARTS, *COMBINED],
        default=[*PARTS],
        metavar="PART",
        help=f"only these, such as 'stem stride 1'; by default all but {' and '.join(COMBINED)}; --dry-run lists them",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="random seeds, by default 0")
    parser.add_argument("--dry-run", action="store_true", help="list what the CSV lacks; no training")
    what = "from the runs in FOLDER that the CSV names; no training"
    parser.add_argument("--markdown", action="store_true", help=f"print the CSV and differences as a table, {what}")
    parser.add_argument("--figure", type=Path, help=f"write the differences of seed 0 as a PNG of this name, {what}")
    given = parser.parse_args(args)
    with plain_errors():
        _main(given)
    return 0


def _main(given: argparse.Namespace) -> None:
    if show(given, read_rows(given.table), figure, markdown):
        return
    check_seeds(given.seeds)
    done = recorded(given.table)
    cells = [Cell(part, seed) for seed in given.seeds for part in given.parts]
    cells = [cell for cell in cells if cell not in done]
    announce([f"{cell.part}, seed {cell.seed}" for cell in cells], len(given.seeds) * len(given.parts), given.table)
    if given.dry_run or not cells:
        return
    given.work = given.work.absolute()
    given.work.mkdir(parents=True, exist_ok=True)
    manifests = {given.work / (VOTED if cell.voted else TRAINING) for cell in cells}
    if given.data is None and not all(manifest.exists() for manifest in manifests):
        msg = "--data: is needed by the first run in --work; name FER2013, such as fer2013.zip"
        raise InputError(msg)
    for number, cell in enumerate(cells, 1):
        print(f"{number} of {len(cells)}: {cell.part}, seed {cell.seed}", file=sys.stderr, flush=True)
        training_part(str(Path(given.data or "").absolute()), given.work, voted=cell.voted)
        append(given.table, row := measure(cell, given.work, recorded(given.table)))
        print(" ".join(row[name] for name in COLUMNS[:-1]), flush=True)


def announce(missing: Sequence[str], asked: int, table: Path) -> None:
    """Print which rows are to be measured, and how many the CSV has already."""
    if missing:
        print(f"{len(missing)} of {asked} rows to measure: {'; '.join(missing)}", file=sys.stderr, flush=True)
    else:
        print(f"{table} has all {asked} rows; to measure them again, give --table a new file", file=sys.stderr)


Rows = list[dict[str, str]]


def show(
    given: argparse.Namespace,
    rows: Rows,
    figure: Callable[[Rows, Path], Figure],
    markdown: Callable[[Rows, Path], Iterator[str]],
) -> bool:
    """Write the figure or print the tables of a benchmark, if that is asked for; return whether it is.

    Raises:
        InputError: The CSV has no rows, or the folder no runs.
    """
    if not (given.figure or given.markdown):
        return False
    if not rows:
        raise invalid("--table", "must be a CSV with rows", str(given.table), "leave --figure and --markdown out")
    if not (given.work / DIRECTORY).exists():
        rule = "must be the folder with the runs that the CSV names"
        raise invalid("--work", rule, str(given.work), "the CSV itself has the scores of every run")
    if given.figure:
        figure(rows, given.work.absolute()).savefig(given.figure, dpi=130)
    else:
        print(*markdown(rows, given.work.absolute()), sep="\n")
    return True


if __name__ == "__main__":
    sys.exit(main())
