"""Which of a run's held-out images are explained: so many of each class and group, or those at given rows."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd

from datamodules.errors import InputError, did_you_mean, invalid
from records.bias.columns import Grouping

Answers = Literal["correct", "wrong", "any"]
ANSWERS: tuple[Answers, ...] = get_args(Answers)


def choose(
    predictions: pd.DataFrame,
    classes: Sequence[str],
    number: int,
    by: Sequence[Grouping] = (),
    *,
    answers: Answers = "correct",
    seed: int = 0,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Choose up to `number` images of each class, or of each class and group, at random, of different clusters first.

    Args:
        predictions: The prediction table.
        classes: All classes, also those without images.
        number: So many at most in a cell.
        by: Groupings; an image may serve in one cell of each.
        answers: Of images that were answered correctly, wrongly, or of all.
        seed: The same gives the same images.

    Returns:
        Their places in the table, rising; and one row a cell: by, group, class, chosen, eligible, images.

    Raises:
        InputError: There is none at all.
    """
    if number < 1:
        msg = f"--images: at least 1 of each class, got {number}"
        raise InputError(msg)
    label = predictions["label"].to_numpy(object)
    right = label == predictions["predicted"].to_numpy(object)
    eligible = {"correct": right, "wrong": ~right, "any": np.ones(len(right), bool)}[answers]
    shuffled = np.random.default_rng(seed).permutation(len(predictions))
    chosen = np.zeros(len(predictions), bool)
    cells: list[tuple[str, str, str, np.ndarray]] = []
    everybody = ("", np.full(len(predictions), "", object), ("",))
    for name, group, groups in [(one.name, one.of(predictions), one.groups) for one in by] or [everybody]:
        for value in groups:
            for label_name in classes:
                there = (label == label_name) & (group == value)
                left = shuffled[(there & eligible & ~chosen)[shuffled]]
                wanted = max(0, number - int((chosen & there).sum()))  # some were chosen for another grouping
                chosen[_different_first(left, predictions["cluster"].to_numpy())[:wanted]] = True
                cells.append((name, value, label_name, there))
    if not chosen.any():
        msg = (
            f"--images: none of the {len(predictions)} held-out images was answered "
            f"{ {'correct': 'correctly', 'wrong': 'wrongly', 'any': 'at all'}[answers] }, so there is none to explain; "
            "--answers any takes all"
        )
        raise InputError(msg)
    counts = [
        {
            "by": name,
            "group": value,
            "class": label_name,
            "chosen": int((chosen & there).sum()),
            "eligible": int((eligible & there).sum()),
            "images": int(there.sum()),
        }
        for name, value, label_name, there in cells
    ]
    return np.flatnonzero(chosen), pd.DataFrame(counts)


def _different_first(rows: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return rows so that the first of every cluster comes before the second of any."""
    turn = pd.Series(clusters[rows]).groupby(clusters[rows]).cumcount().to_numpy()
    return rows[np.argsort(turn, kind="stable")]


def cell_lines(cells: pd.DataFrame, predictions: pd.DataFrame, number: int, answers: Answers) -> list[str]:
    """Return what to tell of cells that have fewer images than wanted, and of classes that are never predicted."""
    said = {"correct": "answered correctly", "wrong": "answered wrongly", "any": "there"}[answers]
    lines = []
    for row in cells[cells["chosen"] < number].to_dict("records"):
        group = f" / {row['group']}" if row["group"] else ""
        lines.append(
            f"{row['class']}{group}: {row['chosen']} of {number} wanted; "
            f"{row['eligible']} of its {row['images']} images are {said}"
        )
    never = sorted(set(cells["class"]) - set(predictions["predicted"]))
    lines += [f"{name} was never predicted" for name in never]
    return lines


def places_of_rows(predictions: pd.DataFrame, split: pd.DataFrame | None, rows: Sequence[int]) -> np.ndarray:
    """Return the places in the table of rows of the data.

    Raises:
        InputError: A row that no fold held out.
    """
    place = pd.Series(np.arange(len(predictions)), index=predictions["row"])
    for row in rows:
        if row not in place.index:
            role = ""
            if split is not None and (split["row"] == row).any():
                used = split[split["row"] == row].iloc[0]
                role = f" (fold {used['fold']} had it for its {used['role']} part)"
            msg = (
                f"--rows: row {row} was held out by no fold{role}, so no checkpoint of the run may explain it; the run "
                f"held out {len(place)} rows, such as {', '.join(map(str, place.index[:5]))}"
            )
            raise InputError(msg)
    return place[list(dict.fromkeys(rows))].to_numpy()


def targets_of(table: pd.DataFrame, classes: Sequence[str], wanted: str) -> np.ndarray:
    """Return the index of the class that is explained of each image, int64 (N,).

    Args:
        table: With columns label and predicted.
        classes: Their names.
        wanted: ``predicted``, ``label`` (predicted where no label is known), or the name of a class.

    Raises:
        InputError: No such class; the nearest is offered.
    """
    names = pd.Index(classes)
    if wanted in ("predicted", "label"):
        column = table["predicted"]
        if wanted == "label":
            column = table["label"].where(table["label"].isin(names), column)
        return names.get_indexer(pd.Index(column)).astype(np.int64)
    if wanted not in names:
        hint = did_you_mean(wanted, [*classes, "predicted", "label"], cutoff=0.4)
        raise invalid("--target", f"must be predicted, label or a class ({', '.join(classes)})", wanted, hint)
    return np.full(len(table), names.get_loc(wanted), np.int64)
