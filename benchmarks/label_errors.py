"""How many doubtful labels annotators reject, and what training without them does: minutes on two cores.

`python -m benchmarks.label_errors fer2013.zip` trains a linear classifier on frozen features (EfficientNet-Lite0 with
ImageNet weights) in place of a network, so that out-of-fold probabilities of a whole data set take minutes. It needs a
data set with annotators' votes and a given split. The labels of the train part are ranked by `results.label_errors`,
from folds of whole clusters; training images with a copy in the reported part are left out first.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from datamodules.emotion import EmotionDataModule
from datamodules.read_options import ReadOptions
from datamodules.splits.folds import k_fold
from results.label_errors import FIRST, LabelErrors, annotators_labels, find_label_errors, precision_table
from results.predictions import build_predictions
from results.run_images import DataOptions
from results.statistics import confusion, scores
from sweeps.studies.frozen_features import features

BACKBONE, WIDTH, PENALTY = "tf_efficientnet_lite0", 256, 0.1


def classifier() -> LogisticRegression:
    """Return the linear classifier, untrained."""
    return LogisticRegression(C=PENALTY, max_iter=300)


def reduced(x: np.ndarray) -> np.ndarray:
    """Return the first principal components of features, scaled to unit variance, float32 (N, WIDTH)."""
    width = min(WIDTH, *x.shape)
    return PCA(width, whiten=True, svd_solver="covariance_eigh").fit_transform(x).astype(np.float32)


def out_of_fold(data: EmotionDataModule, x: np.ndarray, rows: np.ndarray, folds: int, seed: int) -> pd.DataFrame:
    """Return the prediction table of some rows, each predicted by the folds that it is not in.

    Args:
        data: The images.
        x: Features of all images, (N, F).
        rows: Rows to predict, (M,).
        folds: Number of folds.
        seed: Seed of the folds.
    """
    labels, clusters, classes = data.manifest.labels, data.clusters, data.manifest.classes
    probabilities = np.zeros((len(rows), len(classes)))
    for fold in k_fold(labels[rows], clusters[rows], classes, folds=folds, seed=seed, inner_fraction=0):
        model = classifier().fit(x[rows[fold.train]], labels[rows[fold.train]])
        probabilities[np.ix_(fold.test, model.classes_)] = model.predict_proba(x[rows[fold.test]])
    return build_predictions(data.manifest, rows, probabilities, fold=0, clusters=clusters, contents=data.contents)


def effect(
    data: EmotionDataModule,
    x: np.ndarray,
    rows: np.ndarray,
    test: np.ndarray,
    found: LabelErrors,
    annotators: pd.DataFrame,
    seed: int,
) -> pd.DataFrame:
    """Return scores on the reported part after training with and without doubtful labels.

    They are accuracy and macro F1 by the published labels, and accuracy by the annotators' answers, of images that most
    of them find clear and give a class of the data set.

    Args:
        data: The images.
        x: Features of all images, (N, F).
        rows: Rows to train on, (M,).
        test: Rows to report on.
        found: The ranking of the labels of `rows`.
        annotators: Result of `annotators_labels`.
        seed: Seed of the random rows that are left out for comparison.
    """
    labels, classes = data.manifest.labels, len(data.manifest.classes)
    known = annotators.reindex(data.manifest.table["path"].iloc[test])
    answer = pd.Index(data.manifest.classes).get_indexer(pd.Index(known["answer"]))
    clear = (answer >= 0) & known["unclear"].eq(False).to_numpy()
    ranked, flagged = found.ranked["row"].to_numpy(), len(found.flagged)
    shuffled = np.random.default_rng(seed).permutation(rows)
    left_out = {"none": rows[:0], f"{flagged} doubtful, all": ranked[:flagged], f"{flagged} random": shuffled[:flagged]}
    for number in (number for number in FIRST[1:] if number < flagged):
        left_out |= {f"{number} most doubtful": ranked[:number], f"{number} random": shuffled[:number]}
    lines = []
    for name, gone in left_out.items():
        kept = np.setdiff1d(rows, gone)
        model = classifier().fit(x[kept], labels[kept])
        predicted = model.predict(x[test])
        reached = scores(confusion(labels[test], predicted, classes))
        line = {"left out": name, "accuracy": float(reached["accuracy"]), "f1_macro": float(reached["f1_macro"])}
        lines.append(line | {"by_annotators": float((predicted == answer)[clear].mean())})
    return pd.DataFrame(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of one data set, one seed of the folds after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_errors", description=__doc__)
    parser.add_argument("source", help="data set with annotators' votes and a given split, such as fer2013.zip")
    parser.add_argument("--part", type=float, help="share of the images (default: all)")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--near", action="store_true", help="also find near-duplicates, not only equal images")
    options = parser.parse_args(arguments)
    read = ReadOptions(part=options.part)
    data = EmotionDataModule(options.source, size=options.size, near_duplicates=options.near, read=read, num_workers=0)
    split = data.manifest.table["split"].to_numpy()
    test = np.flatnonzero(split == ("test" if (split == "test").any() else "validation"))
    rows = np.flatnonzero((split == "train") & ~np.isin(data.clusters, data.clusters[test]))
    print(f"{data.manifest.name}: {len(rows):,} images to train on, {len(test):,} to report on", flush=True)
    annotators = annotators_labels(DataOptions(options.source, read, None))
    x = reduced(features(data, BACKBONE, "embedded"))
    for seed in options.seeds:
        predictions = out_of_fold(data, x, rows, options.folds, seed)
        right = (predictions["label"] == predictions["predicted"]).mean()
        found = find_label_errors(predictions)
        precision, about = precision_table(found, annotators)
        print(f"\nseed {seed}: out-of-fold accuracy {right:.3f}, {len(found.flagged):,} labels doubtful\n{about}")
        print(precision.to_string(index=False, float_format="{:.3f}".format), flush=True)
        changed = effect(data, x, rows, test, found, annotators, seed)
        print(changed.to_string(index=False, float_format="{:.4f}".format), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
