"""What a study is made of: cells that are run, tables that show them beside published numbers, and claims to test."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from datamodules.errors import InputError
from lightning_modules.config import Options, RunConfig

Value = str | int | float | bool | None | list[str]
Scale = Literal["tiny", "small", "paper"]
Protocol = Literal["honest", "paper"]
SCALES: tuple[Scale, ...] = ("tiny", "small", "paper")
PROTOCOLS: tuple[Protocol, ...] = ("honest", "paper")
# f1_macro, accuracy, recall_<class>, f1_<class>, or any other metric that a run logged; the first four also of a group
# of the reported images: `accuracy on age=child`
Metric = str
ON = " on "


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One thing that is measured, once with each seed of its study.

    Attributes:
        name: Unique within the study; stands in its tables.
        recipe: What the options are put on.
        options: Of `emotion fit`, by their dotted names.
        frozen: Of a study of frozen features: ``flips`` doubles the training part by mirrored images, ``marks`` lists
            the epochs after which accuracy on the reported part is noted.
        folds: Number of folds of a cross-validation; 0 for one division.
        stage: Cells of a later stage begin when those of the earlier ones are done.
        chosen: Takes the transforms that the study's choice found in an earlier stage.
        start_from: A cell of an earlier stage, whose weights, of the same seed, are trained further.
    """

    name: str
    recipe: str
    options: Mapping[str, Value] = field(default_factory=dict)
    frozen: Mapping[str, Any] = field(default_factory=dict)
    folds: int = 0
    stage: int = 0
    chosen: bool = False
    start_from: str | None = None


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a table: a metric of a cell (None: not run at this scale), and what was published."""

    cell: str | None
    metric: Metric
    published: float | None = None


@dataclass(frozen=True)
class Table:
    """A table of a study; `rows` maps a name to one entry a column, None where there is nothing."""

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Entry | None, ...]]
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A sentence of the form: one number is higher than another.

    Attributes:
        text: The sentence.
        higher: Cell and metric that are said to be higher.
        lower: Cell and metric that are said to be lower.
        published: The two numbers as published, the higher first; None where no paper gives them.
    """

    text: str
    higher: tuple[str, Metric]
    lower: tuple[str, Metric]
    published: tuple[float, float] | None = None


@dataclass(frozen=True)
class Changes:
    """What several cells know more or less than one of them, of a group of the reported images, class by class.

    Attributes:
        title: Stands above it.
        on: The group, as a condition (`age=child`).
        before: The cell that the others are compared with.
        after: The others, by the name of their column.
        published: By class, and "" for all together, what was published: before and after, of the first column.
        note: Stands above it, too.
    """

    title: str
    on: str
    before: str
    after: Mapping[str, str]
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure.

    Its kinds are `curves` over epochs, `trade` of scores over parameters and FLOPs, `spread` of repeats, `differences`,
    and the `plane` of two metrics.

    Attributes:
        kind: Which of these.
        title: Stands above it.
        cells: Whose numbers it shows, by the name they have in it.
        metrics: What of them.
        published: Numbers beside ours, by the same names.
    """

    kind: Literal["curves", "trade", "spread", "differences", "plane"]
    title: str
    cells: Mapping[str, str]
    metrics: tuple[Metric, ...]
    published: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """The best of several cells, by macro F1, which cells of the next stage take.

    Attributes:
        cells: Name of the cell of each thing that can be chosen.
        count: How many are chosen.
    """

    cells: Mapping[str, str]
    count: int


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question over many runs.

    Raises:
        InputError: Two cells have one name, or a table, a claim or a figure names a cell that is not there.
    """

    name: str
    about: str
    source: str
    cells: tuple[Cell, ...]
    tables: tuple[Table, ...]
    claims: tuple[Claim, ...]
    pictures: tuple[Picture, ...] = ()
    choice: Choice | None = None
    seeds: tuple[int, ...] = (0,)
    task: Literal["fit", "frozen"] = "fit"
    notes: tuple[str, ...] = ()
    changes: tuple[Changes, ...] = ()

    def __post_init__(self) -> None:
        names = [cell.name for cell in self.cells]
        used = {entry.cell for table in self.tables for row in table.rows.values() for entry in row if entry}
        used |= {end[0] for claim in self.claims for end in (claim.higher, claim.lower)}
        used |= {name for picture in self.pictures for name in picture.cells.values()}
        used |= set(self.choice.cells.values() if self.choice else ())
        used |= {name for one in self.changes for name in (one.before, *one.after.values())}
        used |= {cell.start_from for cell in self.cells}
        unknown = sorted(name for name in used if name is not None and name not in names)
        if unknown or len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            msg = f"study {self.name}: each cell has its own name and is in the study, got twice {twice}, no {unknown}."
            raise InputError(msg)
        late = [cell.name for cell in self.cells if cell.start_from and self.cell(cell.start_from).stage >= cell.stage]
        if late:
            msg = f"study {self.name}: a cell starts from one of an earlier stage, not so {late}."
            raise InputError(msg)
        wrong = [t.title for t in self.tables if any(len(row) != len(t.columns) for row in t.rows.values())]
        if wrong:
            msg = f"study {self.name}: every row of a table has one entry a column, not so in {wrong}."
            raise InputError(msg)

    def cell(self, name: str) -> Cell:
        """Return the cell of that name."""
        return next(cell for cell in self.cells if cell.name == name)

    @property
    def stages(self) -> list[int]:
        """The stages, in order."""
        return sorted({cell.stage for cell in self.cells})


def cell_config(cell: Cell, given: Options, transforms: list[str] | None = None) -> RunConfig:
    """Return the config of a cell; the options that a user gave win over those of the cell.

    Args:
        cell: The cell.
        given: The user's options.
        transforms: What the study's choice found in an earlier stage, for a cell that takes it.

    Raises:
        InputError: An option or value that does not fit, or the cell takes chosen transforms and there are none.
    """
    options: dict[str, Any] = _that_fit(cell.options, given)
    if cell.chosen:
        if not transforms:
            msg = f"cell {cell.name}: takes the transforms that an earlier stage chooses, and none were chosen."
            raise InputError(msg)
        options["data.transforms"] = transforms
    return RunConfig.layered(given.over(cell.recipe, options))


def _that_fit(options: Mapping[str, Value], given: Options) -> dict[str, Value]:
    """Return a cell's options without those that another way of dividing, chosen by the user, does not take."""
    split = given.values.get("data.split")
    left = dict(options)
    if split is not None and split != "holdout":
        left.pop("data.holdout_fraction", None)
    if split is not None and split != "given" and left.get("data.leak") in ("drop_twins", "allow"):
        del left["data.leak"]
    return left
