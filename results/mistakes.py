"""The mistakes of a run by pair of classes, the most confident first."""

import numpy as np
import pandas as pd

from results.predictions import PROBABILITY, check_predictions, classes_of


def mistakes(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the wrongly predicted images of a run, those of the most frequent pairs first.

    Args:
        predictions: Its prediction table.

    Returns:
        One row a mistake: row, path, content, fold, label, predicted, probability (of the predicted class),
        probability_of_label. Pairs of label and predicted class are sorted by their number of mistakes, mistakes of a
        pair by probability, the highest first.
    """
    check_predictions(predictions)
    names = pd.Index(classes_of(predictions))
    probabilities = predictions[[f"{PROBABILITY}{name}" for name in names]].to_numpy(np.float64)  # (N, C)
    rows = np.arange(len(predictions))
    table = predictions[["row", "path", "content", "fold", "label", "predicted"]].reset_index(drop=True)
    table["probability"] = probabilities[rows, names.get_indexer(pd.Index(table["predicted"]))]
    table["probability_of_label"] = probabilities[rows, names.get_indexer(pd.Index(table["label"]))]
    table = table[table["label"] != table["predicted"]]
    pairs = table.groupby(["label", "predicted"])["row"].transform("size")
    order = {name: place for place, name in enumerate(names)}
    keys = table.assign(pairs=-pairs, first=table["label"].map(order), second=table["predicted"].map(order))
    keys = keys.assign(doubt=-table["probability"]).sort_values(["pairs", "first", "second", "doubt", "row"])
    return table.loc[keys.index].reset_index(drop=True)


def pairs_table(wrong: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return one row a pair: label, predicted, mistakes, share (of the images of the label), highest; as text.

    Args:
        wrong: Result of `mistakes`.
        predictions: The prediction table.
    """
    images = predictions["label"].value_counts()
    rows = [
        {
            "label": str(label),
            "predicted": str(predicted),
            "mistakes": f"{len(part):,}",
            "share": f"{len(part) / images[label]:.1%}",
            "highest": f"{part['probability'].iloc[0]:.3f}",
        }
        for (label, predicted), part in wrong.groupby(["label", "predicted"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["label", "predicted", "mistakes", "share", "highest"])
