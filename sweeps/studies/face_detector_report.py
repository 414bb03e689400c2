"""The report of the face detector's study: a study's usual page, and each seed's differences with intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.places import replacing
from lightning_modules.detector.precision import Picture, average_precision, difference, intervals, permutation
from lightning_modules.detector.tables import matched
from sweeps.studies.by_image import LeftOut
from sweeps.studies.claims import judge
from sweeps.studies.face_detector import NEW, OLD, SHOWN, TRAINED, TUNED, cell_name
from sweeps.studies.numbers import Circumstances, numbers, p_text, shown, signed
from sweeps.studies.outcomes import Outcome, Outcomes
from sweeps.studies.page import Block, CellText, Grid, Part, as_html, as_markdown, text
from sweeps.studies.plan import Metric, Study
from sweeps.studies.report import compose

Tables = Callable[[str, str, int], tuple[pd.DataFrame, pd.DataFrame]]  # model, pictures, seed -> detections, truth


@dataclass(frozen=True)
class Measured(Outcome):
    """One detector on one set of held-out pictures; intervals are over pictures."""

    pictures: tuple[Picture, ...] = ()
    resamples: int = 1000

    @cached_property
    def intervals(self) -> pd.DataFrame:
        """As the tables of a study want them: by metric, of no class."""
        return intervals(list(self.pictures), resamples=self.resamples).assign(**{"class": ""})

    @classmethod
    def left_out(cls, runs: Sequence[Outcome], metrics: Sequence[Metric]) -> LeftOut | None:
        """Return average precisions, one per run, with and without each image; None if the runs' images differ."""
        sets = [list(run.pictures) for run in runs if isinstance(run, Measured)]
        if len({tuple(picture.faces for picture in pictures) for pictures in sets}) > 1:
            return None

        def value(pictures: list[Picture], metric: Metric) -> float:
            found = average_precision(pictures)
            return float(found[0] if metric == "map_50" else found.mean())

        both = list(zip(sets, metrics, strict=True))
        values = np.array([value(pictures, metric) for pictures, metric in both])
        count = len(sets[0])
        without = [[value(pictures[:i] + pictures[i + 1 :], metric) for pictures, metric in both] for i in range(count)]
        return LeftOut(values, np.array(without))


def write_detector_report(
    study: Study,
    runs: dict[tuple[str, int], str],
    tables: Tables,
    now: Circumstances,
    folder: Path,
    *,
    resamples: int = 1000,
) -> list[Path]:
    """Write report.md, report.html, report.csv and the figures; return their paths.

    Args:
        study: of the detector.
        runs: of each step and seed that has finished.
        tables: gives what a detector found in held-out pictures, and the truth.
        now: how it came about.
        folder: where to.
        resamples: of the intervals, and swaps of the tests.
    """
    seeds = [seed for seed in study.seeds if all((model, seed) in runs for model in (TRAINED, TUNED))]
    found = [
        Measured(
            cell_name(model, kind), seed, runs[model, seed], {}, tuple(matched(*tables(model, kind, seed))), resamples
        )
        for seed in seeds
        for model in (TRAINED, TUNED)
        for kind in (NEW, OLD)
    ]
    outcomes = Outcomes(found)
    judged = judge(study.claims, outcomes)
    page = compose(study, outcomes, judged, now)
    changes = changed(found, seeds)
    said = f"{len(seeds)} of {len(study.seeds)} seeds finished, each a run that trains and one that fine-tunes."
    lead = tuple(said if "cells finished" in one else one for one in page.lead)
    place = len(study.tables)
    blocks = (*page.blocks[:place], *([_block(changes)] if len(changes) else []), *page.blocks[place:])
    page = replace(page, lead=lead, blocks=blocks)
    table = pd.concat([numbers(study, outcomes, judged, now), _rows(changes, now)], ignore_index=True)
    files: dict[str, bytes] = {
        "report.md": as_markdown(page).encode(),
        "report.html": as_html(page).encode(),
        "report.csv": table.to_csv(index=False).encode(),
    }
    files |= {f"figures/{block.figure.file}": block.figure.png for block in page.blocks if block.figure}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder / name) as part:
            part.write_bytes(content)
    return [folder / name for name in files]


def changed(found: list[Measured], seeds: list[int]) -> pd.DataFrame:
    """Return what fine-tuning changed in each seed, on both kinds of pictures: the same pictures before and after.

    Columns: pictures (which), seed, metric, held_out (how many), faces, before, after, difference, low, high, p, and
    the runs before and after.
    """
    by = {(one.cell, one.seed): one for one in found}
    rows = []
    for kind in (NEW, OLD):
        for seed in seeds:
            one, other = by[cell_name(TRAINED, kind), seed], by[cell_name(TUNED, kind), seed]
            before, after = list(one.pictures), list(other.pictures)
            table, p_values = (
                difference(before, after, resamples=one.resamples),
                permutation(before, after, resamples=one.resamples),
            )
            for line, p_value in zip(table.itertuples(), p_values.tolist(), strict=True):
                rows.append(
                    {
                        "pictures": kind,
                        "seed": seed,
                        "metric": line.metric,
                        "held_out": len(before),
                        "faces": sum(picture.faces for picture in before),
                        "before": one.number(str(line.metric))[0],
                        "after": other.number(str(line.metric))[0],
                        "difference": line.value,
                        "low": line.low,
                        "high": line.high,
                        "p": p_value,
                        "run_before": one.run_id,
                        "run_after": other.run_id,
                    }
                )
    return pd.DataFrame(rows)


def _block(changes: pd.DataFrame) -> Block:
    names = ("", "metric", "held-out pictures", "faces", "before", "after", "difference", "95 % interval", "p")
    rows: list[tuple[CellText, ...]] = [
        (
            text(f"{row.pictures}, seed {row.seed}"),
            text(SHOWN[row.metric]),
            text(str(row.held_out)),
            text(str(row.faces)),
            (Part(shown(row.before), row.run_before),),
            (Part(shown(row.after), row.run_after),),
            text(signed(row.difference)),
            text(f"{signed(row.low)} to {signed(row.high)}"),
            text(p_text(row.p)),
        )
        for row in changes.itertuples()
    ]
    note = (
        "Intervals: held-out pictures drawn anew 1,000 times, the same ones before and after. p: at random, pictures "
        "swap what was found before and after, 1,000 times; not corrected for the number of lines."
    )
    return Block("Each seed, the same pictures before and after", (note,), Grid(names, tuple(rows)))


def _rows(changes: pd.DataFrame, now: Circumstances) -> pd.DataFrame:
    if changes.empty:
        return changes
    named = changes.assign(
        part="after - before",
        row=changes["pictures"] + ", seed " + changes["seed"].astype(str),
        value=changes["difference"],
        runs=changes["run_before"] + " " + changes["run_after"],
        scale=now.scale,
        protocol=now.protocol,
        data=now.data,
    )
    kept = ["part", "row", "metric", "value", "low", "high", "p", "runs", "scale", "protocol", "data"]
    return named[[*kept, "before", "after", "held_out", "faces"]]
