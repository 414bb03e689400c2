"""Schema of a study: cells to run, tables beside published numbers, and claims to test."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from datamodules.errors import InputError
from lightning_modules.config import Kind, Options, RunConfig

Value = str | int | float | bool | None | list[str]
Scale = Literal["tiny", "small", "paper"]
Protocol = Literal["honest", "paper"]
SCALES: tuple[Scale, ...] = ("tiny", "small", "paper")
PROTOCOLS: tuple[Protocol, ...] = ("honest", "paper")
# f1_macro, accuracy, recall_<class>, f1_<class>, or any other metric that a run logged; the first four also of a
# subgroup of the test images: `accuracy on age=child`; of a detector map and map_50, and other/map on other images;
# <rarest> and <largest> stand for the class with the fewest and the most test images: `f1_<rarest>`
Metric = str
ON = " on "
OTHER = "other/"
RAREST, LARGEST = "<rarest>", "<largest>"
# train a classifier, a head on frozen features, or a face detector; or adjust a trained classifier
Task = Literal["fit", "frozen", "detector", "adjust"]
Adjustment = Literal["tau", "tau-normalisation"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One experiment of a study, run once with each seed.

    Attributes:
        name: Unique within the study; shown in its tables.
        recipe: Recipe that the options override; None for a detector, which has no recipes.
        options: Options of `emotion fit` or `emotion detector fit`, by their dotted names.
        task: What is trained.
        fixed: Names of options that the user's options do not replace.
        frozen: Of a head on frozen features: ``flips`` doubles the train part by mirrored images, ``marks`` lists
            the epochs after which accuracy on the test part is noted.
        folds: Number of folds of a cross-validation; 0 for one division.
        stage: Cells of a later stage begin when those of the earlier ones are done.
        chosen: Uses the transforms that the study's choice selected in an earlier stage.
        start_from: A cell of an earlier stage, whose weights, of the same seed, are trained further or adjusted.
        new_head: Takes only the backbone of `start_from`.
        adjustment: How the classifier of `start_from` is adjusted.
        steps_of: A cell of an earlier stage; an epoch has as many steps as one of its epochs.
        test_on: A cell on whose test images this cell's detector is evaluated, too.
    """

    name: str
    recipe: str | None
    options: Mapping[str, Value] = field(default_factory=dict)
    task: Task = "fit"
    fixed: tuple[str, ...] = ()
    frozen: Mapping[str, Any] = field(default_factory=dict)
    folds: int = 0
    stage: int = 0
    chosen: bool = False
    start_from: str | None = None
    new_head: bool = False
    adjustment: Adjustment | None = None
    steps_of: str | None = None
    test_on: str | None = None

    @property
    def needs(self) -> list[str]:
        """The cells of earlier stages whose runs it uses."""
        return sorted({name for name in (self.start_from, self.steps_of) if name})

    @property
    def kind(self) -> Kind:
        """Whose options it takes: those of `emotion fit`, or of `emotion detector fit`."""
        return "detector" if self.task == "detector" else "emotion"


@dataclass(frozen=True)
class Entry:
    """An entry of a table: a metric of a cell (None: not run at this scale), and the published number."""

    cell: str | None
    metric: Metric
    published: float | None = None


@dataclass(frozen=True)
class Table:
    """A table of a study; `rows` maps a name to one entry a column, None where there is nothing.

    With `intervals` a mean over three or more seeds has its 95 % interval over seeds and images, instead of the
    smallest and the largest value.
    """

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Entry | None, ...]]
    note: str = ""
    intervals: bool = False


@dataclass(frozen=True)
class Claim:
    """A statement that one number is higher than another.

    Attributes:
        text: The sentence.
        higher: Cell and metric that are claimed to be higher.
        lower: Cell and metric that are claimed to be lower.
        published: The two published numbers, the higher first; None where no paper gives them.
    """

    text: str
    higher: tuple[str, Metric]
    lower: tuple[str, Metric]
    published: tuple[float, float] | None = None


@dataclass(frozen=True)
class Changes:
    """A table of differences between one cell and others, on a subgroup of the test images, class by class.

    Attributes:
        title: Heading.
        on: The subgroup, as a condition (`age=child`).
        before: The cell that the others are compared with.
        after: The others, by the name of their column.
        published: Published numbers before and after, of the first column, by class; "" for all classes together.
        note: Text under the heading.
    """

    title: str
    on: str
    before: str
    after: Mapping[str, str]
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class SeedChanges:
    """A table of differences between two detectors, seed by seed, each on the same test images.

    Attributes:
        title: Heading.
        before: The cell that the other one is compared with.
        after: The other cell.
        images: Prefix of the metrics before and after, by the name of the test images: "" for a cell's own test
            images, `OTHER` for those of its `test_on`.
        metrics: Name of each metric that is compared, as it is shown.
    """

    title: str
    before: str
    after: str
    images: Mapping[str, tuple[str, str]]
    metrics: Mapping[Metric, str]


@dataclass(frozen=True)
class FigureSpec:
    """A figure.

    Attributes:
        kind: `curves` over epochs, `trade` of scores over parameters and FLOPs, `spread` of repeats, `differences` of
            the claims, or the `plane` of two metrics.
        title: Heading.
        cells: The cells it shows, by their name in the figure.
        metrics: The metrics it shows.
        published: Published numbers, by the same names.
    """

    kind: Literal["curves", "trade", "spread", "differences", "plane"]
    title: str
    cells: Mapping[str, str]
    metrics: tuple[Metric, ...]
    published: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """The best of several cells, by macro F1, which cells of the next stage use.

    Attributes:
        cells: Name of the cell of each candidate.
        count: How many are chosen.
    """

    cells: Mapping[str, str]
    count: int


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question that is answered by many runs.

    Attributes:
        name: Name on the command line.
        about: The question, in one sentence.
        source: The paper.
        cells: The experiments.
        tables: Tables of the report.
        claims: Statements that are tested together.
        figures: Figures of the report.
        choice: Of transforms, for cells of a later stage.
        seeds: Training seeds of every cell.
        notes: Paragraphs of the report.
        changes: Tables of differences by class.
        seed_changes: Tables of differences by seed.
        whole: All cells are run together; the command refuses ``--cells``.

    Raises:
        InputError: Two cells have one name, or a table, a claim or a figure names a cell that does not exist.
    """

    name: str
    about: str
    source: str
    cells: tuple[Cell, ...]
    tables: tuple[Table, ...]
    claims: tuple[Claim, ...]
    figures: tuple[FigureSpec, ...] = ()
    choice: Choice | None = None
    seeds: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()
    changes: tuple[Changes, ...] = ()
    seed_changes: tuple[SeedChanges, ...] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        names = [cell.name for cell in self.cells]
        used = {entry.cell for table in self.tables for row in table.rows.values() for entry in row if entry}
        used |= {end[0] for claim in self.claims for end in (claim.higher, claim.lower)}
        used |= {name for figure in self.figures for name in figure.cells.values()}
        used |= set(self.choice.cells.values() if self.choice else ())
        used |= {name for change in self.changes for name in (change.before, *change.after.values())}
        used |= {name for change in self.seed_changes for name in (change.before, change.after)}
        used |= {name for cell in self.cells for name in (*cell.needs, cell.test_on)}
        unknown = sorted(name for name in used if name is not None and name not in names)
        if unknown or len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            msg = f"study {self.name}: cell names must be unique and exist, got repeated {twice}, unknown {unknown}."
            raise InputError(msg)
        late = [cell.name for cell in self.cells if any(self.cell(name).stage >= cell.stage for name in cell.needs)]
        if late:
            msg = f"study {self.name}: a cell must start from a cell of an earlier stage, got {late}."
            raise InputError(msg)
        wrong = [t.title for t in self.tables if any(len(row) != len(t.columns) for row in t.rows.values())]
        if wrong:
            msg = f"study {self.name}: every row of a table must have one entry a column, got {wrong}."
            raise InputError(msg)

    def cell(self, name: str) -> Cell:
        """Return the cell of that name."""
        return next(cell for cell in self.cells if cell.name == name)

    @property
    def stages(self) -> list[int]:
        """The stages, in order."""
        return sorted({cell.stage for cell in self.cells})


def cell_config(cell: Cell, given: Options, transforms: list[str] | None = None) -> RunConfig:
    """Return the config of a cell; the user's options replace those of the cell, except its fixed ones.

    Args:
        cell: The cell.
        given: The user's options.
        transforms: Transforms that the study's choice selected in an earlier stage, for a cell that uses them.

    Raises:
        InputError: An option or value that does not fit, or the cell uses chosen transforms and there are none.
    """
    options: dict[str, Any] = _compatible(cell.options, given)
    if cell.chosen:
        if not transforms:
            msg = f"cell {cell.name}: needs the transforms that an earlier stage chooses, got none."
            raise InputError(msg)
        options["data.transforms"] = transforms
    options |= {name: value for name, value in given.values.items() if name not in cell.fixed}
    return RunConfig.layered(Options(given.recipe or cell.recipe, given.files, options, given.typed), cell.kind)


def _compatible(options: Mapping[str, Value], given: Options) -> dict[str, Value]:
    """Return a cell's options without those that do not apply to the split that the user chose."""
    split = given.values.get("data.split")
    left = dict(options)
    if split is not None and split != "holdout":
        left.pop("data.holdout_fraction", None)
    if split is not None and split != "given" and left.get("data.leak") in ("drop_twins", "allow"):
        del left["data.leak"]
    return left
