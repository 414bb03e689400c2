"""Label errors by confident learning, from probabilities of images that their network was not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.manifest import VOTES
from results.predictions import HONEST, PREDICTIONS, PROBABILITY, SPLIT, check_predictions, classes_of, protocol_of
from results.run_images import DataOptions, table_of
from results.tracking import store

FIRST = (100, 500, 2000)  # list lengths at which a ranking is compared with annotators
COLUMNS = ("row", "path", "label", "suggested", "score")


@dataclass(frozen=True)
class LabelErrors:
    """Images ranked by how doubtful their labels are.

    Attributes:
        ranked: One row per image, the most doubtful first: `COLUMNS`, content, and flagged. `suggested` is the class of
            the highest probability; `score`, 0 to 1, is how well label and probabilities agree, low is doubtful.
        classes: Names of the classes.
        notes: Sentences to print.
    """

    ranked: pd.DataFrame
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def flagged(self) -> pd.DataFrame:
        """The images whose label is probably wrong, the most doubtful first."""
        return self.ranked[self.ranked["flagged"]]

    @property
    def table(self) -> pd.DataFrame:
        """The flagged images with `COLUMNS`, as ``--exclude`` takes it."""
        return self.flagged[list(COLUMNS)].reset_index(drop=True)


def find_label_errors(predictions: pd.DataFrame) -> LabelErrors:
    r"""Rank images by how doubtful their labels are, and flag those whose label is probably wrong.

    Confident learning (Northcutt et al. 2021) as cleanlab implements it: an image counts as class j where its
    probability of j is at least the mean probability of j over the images labelled j. The counts of labels against
    these classes estimate how many labels of each pair are wrong, and so many images are flagged, those with the
    largest margin of the other class first. The score is the normalised margin,

    .. math:: (p_{label} - \max_{j \ne label} p_j + 1) / 2

    Args:
        predictions: A prediction table; each probability is of a network that was not trained on the image.

    Raises:
        InputError: Fewer than two classes have images.
    """
    from cleanlab.filter import find_label_issues  # slow to import
    from cleanlab.rank import get_label_quality_scores

    check_predictions(predictions)
    known = classes_of(predictions)
    present = [name for name in known if (predictions["label"] == name).any()]
    if len(present) < 2:
        msg = f"RUN: at least 2 classes must have images, only {', '.join(present)} has; choose another run"
        raise InputError(msg)
    label = pd.Index(present).get_indexer(pd.Index(predictions["label"])).astype(np.int64)
    probabilities = predictions[[f"{PROBABILITY}{name}" for name in present]].to_numpy(np.float64)
    total = probabilities.sum(axis=1, keepdims=True)
    probabilities = np.where(total > 0, probabilities / np.maximum(total, 1e-300), 1 / len(present))
    flagged = find_label_issues(label, probabilities, filter_by="prune_by_noise_rate", n_jobs=1)
    score = get_label_quality_scores(label, probabilities, method="normalized_margin")
    table = predictions[["row", "path", "content", "label"]].reset_index(drop=True)
    table["suggested"] = np.asarray(present, object)[probabilities.argmax(axis=1)]
    table["score"], table["flagged"] = score, np.asarray(flagged, bool)
    order = np.lexsort((table["row"], table["score"], ~table["flagged"]))
    absent = [name for name in known if name not in present]
    notes = [f"No image is of {', '.join(absent)}, so these classes are not suggested."] if absent else []
    return LabelErrors(table.iloc[order].reset_index(drop=True), tuple(present), tuple(notes))


def label_errors_of(run_id: str, *, directory: str | Path = store.DIRECTORY) -> tuple[LabelErrors, pd.DataFrame]:
    """Find the label errors of a cross-validation or evaluation; return them and its prediction table.

    Raises:
        InputError: The run has no tables, or its predictions do not cover its images.
    """
    predictions, split = (table_of(run_id, name, directory=directory) for name in (PREDICTIONS, SPLIT))
    require_cover(predictions, split)
    found = find_label_errors(predictions)
    protocol = protocol_of(predictions)
    if protocol != HONEST:
        note = f"Protocol of the run: {protocol}. Its networks knew some of the images, so wrong labels may be missed."
        found = replace(found, notes=(*found.notes, note))
    return found, predictions


def require_cover(predictions: pd.DataFrame, split: pd.DataFrame) -> None:
    """Check that every image of a run was predicted by a network that was not trained on it.

    Args:
        predictions: Its prediction table.
        split: Its split table.

    Raises:
        InputError: Some images were only trained or selected on; the message names some.
    """
    rows = np.unique(split["row"])
    missing = np.setdiff1d(rows, predictions["row"])
    if len(missing):
        msg = (
            f"RUN: labels can be judged where every image was held out by some fold; {len(missing)} of {len(rows)} "
            f"images were not, such as rows {', '.join(map(str, missing[:5]))}; choose an `emotion cross-validate`, "
            "whose folds hold out every image once"
        )
        raise InputError(msg)
    unknown = np.setdiff1d(predictions["row"], rows)
    if len(unknown):
        listed = ", ".join(map(str, unknown[:5]))
        msg = (
            f"RUN: its tables are of different images: {len(unknown)} predicted rows, such as {listed}, are in no part"
        )
        raise InputError(f"{msg}; run it again")


def counts_table(found: LabelErrors) -> pd.DataFrame:
    """Return one row per class: its images, flagged ones, their share, and the classes suggested most often; text."""
    rows = []
    for name in found.classes:
        mine = found.ranked[found.ranked["label"] == name]
        flagged = mine[mine["flagged"]]
        often = flagged["suggested"].value_counts().head(3)
        rows.append(
            {
                "label": name,
                "images": f"{len(mine):,}",
                "doubtful": f"{len(flagged):,}",
                "share": f"{len(flagged) / max(len(mine), 1):.1%}",
                "suggested": ", ".join(f"{other} {count}" for other, count in often.items()),
            }
        )
    return pd.DataFrame(rows)


def annotators_labels(used: DataOptions) -> pd.DataFrame:
    """Return the label that most annotators give each image of a data set, index `path`.

    Columns: `answer`, the most frequent emotion (the published label where it is among tied ones); `unclear`, whether
    most annotators call the image unknown or not a face. Images without any vote for an emotion are left out.

    Args:
        used: How the run read the data set; all of it is read here.

    Raises:
        InputError: The data set has no annotators' votes.
    """
    if used.read.faces is not None:
        msg = f"--votes: cannot match faces that were cut out by {used.read.faces} with annotators; leave --votes out"
        raise InputError(msg)
    whole = replace(
        used.read, votes="soft", drop_ties=False, drop_unknown=False, part=None, per_class=None, exclude=None,
        classes=None, agreement="any",
    )  # fmt: skip
    every = replace(used, read=whole).manifest()
    if not any(str(name).startswith(VOTES) for name in every.table):
        msg = f"--votes: needs a data set with annotators' votes, {used.source} has none; leave --votes out"
        raise InputError(msg)
    clear = replace(used, read=replace(whole, drop_unknown=True)).manifest()
    table = every.table.set_index("path")
    return pd.DataFrame({"answer": table["label"], "unclear": ~table.index.isin(clear.table["path"])})


def precision_table(
    found: LabelErrors, annotators: pd.DataFrame, first: Sequence[int] = FIRST
) -> tuple[pd.DataFrame, str]:
    """Compare the ranking with the annotators: the share of wrong labels among the first images, and among all.

    A label is wrong where most annotators give another emotion. Images that most annotators call unknown or not a
    face, and those without a vote for an emotion, are counted separately.

    Args:
        found: The ranking.
        annotators: Result of `annotators_labels`.
        first: Numbers of images; those beyond the ranking are left out.

    Returns:
        One row each, and one for all images: first, other_emotion, unclear, wrong (either), all as shares, float64; and
        a sentence on what was compared.

    Raises:
        InputError: No image of the ranking has votes.
    """
    if not found.ranked["path"].isin(annotators.index).any():
        msg = "--votes: the data set with the votes has none of the run's images; name one with the same paths"
        raise InputError(msg)
    known = annotators.reindex(found.ranked["path"])
    without = known["answer"].isna().to_numpy()
    unclear = known["unclear"].eq(True).to_numpy() | without
    other = ~unclear & (known["answer"].to_numpy(object) != found.ranked["label"].to_numpy(object))
    rows = []
    for number in (*(number for number in first if number < len(known)), len(known)):
        shares = {
            name: float(values[:number].mean()) for name, values in (("other_emotion", other), ("unclear", unclear))
        }
        rows.append({"first": number, **shares, "wrong": shares["other_emotion"] + shares["unclear"]})
    about = (
        f"{len(known):,} images; annotators give {int(other.sum()):,} of them another emotion, and call "
        f"{int(unclear.sum()):,} unknown or not a face. The last line, all images, is what a random order gives."
    )
    return pd.DataFrame(rows), about
