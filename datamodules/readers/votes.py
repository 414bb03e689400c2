"""Turns annotators' votes (FER+: ten people, eight emotions, unknown, not a face) into labels and soft targets."""

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.labels import NO_EMOTION, in_class_order, plain
from datamodules.manifest import VOTES
from datamodules.manifest_checks import file_row, parse_numbers
from datamodules.readers.common import ReadOptions, resolve


def apply_votes(table: pd.DataFrame, name: str, options: ReadOptions) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the table with labels by the votes and, for soft targets, ``votes_<class>`` columns; and what was dropped.

    With ``votes="ignore"`` the votes' columns are only taken out. Otherwise the label of a row is its most frequent
    answer among the emotions. See :class:`ReadOptions` for ties and for annotators who saw no emotion.

    Raises:
        InputError: votes are wanted and there are none, or a column's name is not an emotion.
    """
    columns = [str(c) for c in table.columns if str(c).lower().startswith(VOTES)]
    if options.votes == "ignore":
        return table.drop(columns=columns), ()
    if not columns:
        msg = f"{name}: votes={options.votes} needs votes_<emotion> columns, found {', '.join(map(str, table.columns))}"
        raise InputError(msg)
    emotions, rest, names = [], [], []
    for column in columns:
        answer = column[len(VOTES) :]
        if plain(answer) in NO_EMOTION:
            rest.append(column)
            continue
        emotion = resolve(answer, options)
        if emotion is None and options.unknown_labels != "keep":
            msg = f"{name}: the votes' column {column!r} names no known emotion; give it an alias ({answer}=happy)"
            raise InputError(msg)
        emotions.append(column)
        names.append(emotion or answer)
    order = in_class_order(set(names))
    counts = np.zeros((len(table), len(order)))
    for column, emotion in zip(emotions, names, strict=True):
        counts[:, order.index(emotion)] += _numbers(table, column, name)
    none = np.stack([_numbers(table, c, name) for c in rest], axis=1).max(axis=1) if rest else np.zeros(len(table))

    best = counts.max(axis=1, initial=0.0)
    first = counts == best[:, None]  # (N, C), every emotion in first place
    meaning = {label: resolve(str(label), options) or "" for label in table["label"].unique()}
    published = table["label"].map(meaning).to_numpy(object)
    stands = first & (published[:, None] == np.array(order, dtype=object)[None, :])
    winner = np.where(stands.any(axis=1), stands.argmax(axis=1), first.argmax(axis=1))
    keep, notes = np.ones(len(table), dtype=bool), []
    for wanted, bad, reason in (
        (True, best == 0, "have no vote for an emotion"),
        (options.drop_unknown, none > best, "are unknown or not a face to most annotators"),
        (options.drop_ties, first.sum(axis=1) > 1, "share the first place among several emotions"),
    ):
        if wanted and (bad & keep).any():
            notes.append(f"{int((bad & keep).sum())} images left out: they {reason}")
            keep &= ~bad
    table = table.drop(columns=columns).assign(label=np.array(order, dtype=object)[winner])[keep].reset_index(drop=True)
    if options.votes == "soft":
        won = np.unique(winner[keep])
        for c, emotion in enumerate(order):
            if c in won:
                table[VOTES + emotion] = counts[keep, c]
            elif counts[keep, c].any():
                notes.append(f"votes for {emotion} left out: it is in first place for no image")
    return table, tuple(notes)


def _numbers(table: pd.DataFrame, column: str, name: str) -> np.ndarray:
    values = parse_numbers(table[column])[0]
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        msg = f"{name}: {file_row(bad)}: {column} must be a number not below zero, got {table[column].iloc[row]!r}"
        msg += f" for {table['path'].iloc[row]!r}"
        raise InputError(msg)
    return values.to_numpy()
