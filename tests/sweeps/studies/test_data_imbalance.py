"""Study data-imbalance: cells that start from other cells, one test part for all, gains and forgetting."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import optuna
import pandas as pd
import pytest

from datamodules.errors import InputError
from lightning_modules.config import Options, RunConfig, data_module
from results.significance import exchange_test
from sweeps.studies import build_study, runner
from sweeps.studies.analysis import Outcome, Outcomes, RunContext, between, evaluate_claims, paired, stacked
from sweeps.studies.data_imbalance import BEFORE, FURTHER, GROUP_VARIABLE, REHEARSE, SCRATCH, SLOWER
from sweeps.studies.report import ALL, compute_changes, write_report
from sweeps.studies.runner import StudyRunner
from sweeps.studies.schema import Cell, Changes, Claim, Study, cell_config
from sweeps.workers import ENQUEUED

CLASSES = ("happy", "sad")
CHILD, OTHER = "accuracy on age=child", "accuracy on age!=child"
FACES = "drawn:largest=120,ratio=1,size=32,classes=happy+sad,confusion=0"


@pytest.fixture(autouse=True)
def _no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GROUP_VARIABLE, raising=False)


def seen(child: float, other: float, seed: int = 0, images: int = 120) -> pd.DataFrame:
    """Predictions of which these shares are right: 120 images of 60 people, every third person a child."""
    generator = np.random.default_rng(seed)
    rows = np.arange(images)
    label = np.array(CLASSES, dtype=object)[rows % 2]
    age = np.where(rows // 2 % 3 == 0, "child", "adult").astype(object)
    age[-4:] = ""
    right = generator.random(images) < np.where(age == "child", child, other)
    said = np.where(right, label, np.where(label == "happy", "sad", "happy"))
    table = pd.DataFrame({"row": rows + 7, "path": [f"{row}.png" for row in rows]})
    table["content"] = [f"{row:04d}" for row in rows]
    table = table.assign(cluster=rows // 2, subject="", fold=0, label=label, predicted=said, age=age)
    for name in CLASSES:
        table[f"prob_{name}"] = (said == name).astype(float)
    return table


def outcome(cell: str, seed: int, child: float, other: float) -> Outcome:
    found = Outcome(cell, seed, f"run-{cell}-{seed}", {})
    found.__dict__["predictions"] = seen(child, other, 100 * seed + len(cell))
    return found


def test_all_seeds_together_are_tested_image_by_image() -> None:
    one = [seen(0.5, 0.8, seed) for seed in (0, 1)]
    other = [seen(0.9, 0.8, seed) for seed in (5, 6)]
    found = paired(one, other, CHILD)
    assert found is not None
    masks = [table["age"] == "child" for table in one]
    right = [
        np.mean([(t["predicted"] == t["label"])[m].mean() for t, m in zip(tables, masks, strict=True)])
        for tables in (one, other)
    ]
    assert found.difference == pytest.approx(right[1] - right[0])
    assert found.low < found.difference < found.high
    assert found.p_value is not None
    assert found.p_value < 0.01
    # a reference of its own: signs of the people's sums are exchanged
    moved = sum(
        ((b["predicted"] == b["label"]).astype(float) - (a["predicted"] == a["label"])).groupby(a["cluster"]).sum()
        for a, b in zip(one, other, strict=True)
    )
    moved = np.asarray(moved)[np.unique(one[0].loc[masks[0], "cluster"])]
    signs = np.random.default_rng(1).choice([-1, 1], (20_000, len(moved)))
    reference = (np.abs(signs @ moved) >= abs(moved.sum()) - 1e-9).mean()
    assert found.p_value == pytest.approx(reference, abs=0.004)
    assert paired([seen(1, 1)], [seen(1, 1)], OTHER).p_value == 1.0  # type: ignore[union-attr]


def test_one_seed_is_the_usual_test() -> None:
    one, other = seen(0.6, 0.6, 1), seen(0.6, 0.75, 2)
    known = one["age"] == "adult"
    index = pd.Index(CLASSES)
    label, a, b = (
        index.get_indexer(t[known][c]) for t, c in ((one, "label"), (one, "predicted"), (other, "predicted"))
    )
    usual = exchange_test(one.loc[known, "cluster"].to_numpy(), label, a, b, 2, metric="accuracy")
    found = paired([one], [other], OTHER)
    assert found is not None
    assert (found.difference, found.p_value) == pytest.approx((usual.difference, usual.p_value))


def test_rows_of_unknown_age_are_in_neither_group() -> None:
    tables = [seen(1, 1, seed) for seed in (0, 1)]
    assert len(stacked(tables, CHILD)) + len(stacked(tables, OTHER)) == 2 * (120 - 4)
    assert stacked(tables, CHILD)["row"].is_unique


def test_the_gap_between_groups_is_tested() -> None:
    apart, alike = [seen(0.4, 0.9, seed) for seed in (0, 1)], [seen(0.7, 0.7, seed) for seed in (0, 1)]
    found, none = between(apart, CHILD, OTHER), between(alike, CHILD, OTHER)
    assert found.p_value is not None
    assert none.p_value is not None
    assert found.p_value < 0.001 < 0.05 < none.p_value
    assert found.low < found.difference < found.high
    shares = [np.mean(t["predicted"] == t["label"]) for t in (stacked(apart, CHILD), stacked(apart, OTHER))]
    assert found.difference == pytest.approx(shares[1] - shares[0])


def made(changes: tuple[Changes, ...]) -> tuple[Study, Outcomes]:
    cells = (Cell(name="a", recipe="quick"), Cell(name="b", recipe="quick", stage=1, start_from="a"))
    claims = (
        Claim("a is worse on children", ("a", OTHER), ("a", CHILD)),
        Claim("b knows more of children", ("b", CHILD), ("a", CHILD)),
        Claim("b forgets others", ("a", OTHER), ("b", OTHER)),
    )
    study = Study(name="s", about="x", source="", cells=cells, tables=(), claims=claims, changes=changes, seeds=(0, 1))
    runs = [outcome("a", seed, 0.5, 0.9) for seed in (0, 1)] + [outcome("b", seed, 0.95, 0.6) for seed in (2, 0, 1)]
    return study, Outcomes(runs)


def test_claims_of_groups_and_changes_by_class(tmp_path: Path) -> None:
    changes = Changes("Forgotten", "age!=child", "a", {"later": "b"}, {"": (0.8, 0.5), "sad": (0.9, 0.2)})
    study, outcomes = made((changes,))
    claim_results = evaluate_claims(study.claims, outcomes)
    assert [one.verdict for one in claim_results] == ["differs on these images for these models"] * 3
    assert all("2 seeds together" in one.test for one in claim_results)
    third = [outcome("a", 2, 0.5, 0.9), outcome("b", 3, 0.95, 0.6), outcome("a", 3, 0.5, 0.9)]
    three = evaluate_claims(study.claims, Outcomes([*outcomes.of("a"), *outcomes.of("b"), *third]))
    assert [one.verdict for one in three] == ["confirmed"] * 3
    assert all(one.test == "t over 4 seeds and the images they share" for one in three)
    assert [one.difference for one in three[:1]] == pytest.approx(
        [one.difference for one in claim_results[:1]], abs=0.1
    )
    found = compute_changes(changes, outcomes)
    assert [one.name for one in found] == [ALL, *CLASSES]
    assert found[0].tested is not None
    assert found[0].tested.difference == pytest.approx(-claim_results[2].difference)  # of the two seeds that both have
    assert [one.published for one in found] == [(0.8, 0.5), None, (0.9, 0.2)]
    single = paired([one.predictions for one in outcomes.of("a")], [o.predictions for o in outcomes.of("b")[:2]],
                    "recall_sad on age!=child")  # fmt: skip
    assert single is not None
    assert single.p_value is not None
    assert found[2].tested is not None
    assert found[2].tested.p_value >= single.p_value  # type: ignore[operator] # corrected over the table
    now = RunContext("tiny", "honest", "made", (), "1", "parent")
    paths = write_report(study, outcomes, now, tmp_path)
    text = paths[0].read_text()
    assert "## Forgotten" in text
    assert "paper 0.200 (-0.700)" in text
    numbers = pd.read_csv(paths[2]).set_index(["part", "row"])
    assert numbers.loc[("Forgotten", "sad"), "value"].item() == pytest.approx(found[2].tested.difference)
    assert compute_changes(changes, Outcomes([])) == []


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_one_reported_part_and_who_learns_from_whom(scale: str) -> None:
    study = build_study("data-imbalance", scale, "honest")  # type: ignore[arg-type]
    found = {}
    for cell in study.cells:
        given = Options.read(["--data", FACES, "--data.read.faces", "null"])
        data = data_module(cell_config(cell, given))
        data.__dict__["clusters"] = np.arange(len(data.manifest))
        found[cell.name] = data
    child = (found[BEFORE].manifest.table["age"] == "child").to_numpy()
    outer = found[BEFORE].fold_rows.test
    for name, data in found.items():
        np.testing.assert_array_equal(data.fold_rows.test, outer)
        assert not np.isin(data.draws.rows, outer).any(), name
    assert 0 < child[outer].sum() < len(outer)
    assert not child[found[BEFORE].draws.rows].any()
    assert not child[found[BEFORE].selected_on].any()
    for name in (FURTHER, SLOWER):
        assert child[found[name].draws.rows].all()
    for name, share in REHEARSE.items():
        assert np.mean(~child[found[name].draws.rows]) == pytest.approx(share, abs=0.03)
        assert np.isin(found[name].draws.rows[~child[found[name].draws.rows]], found[BEFORE].draws.rows).all()
        assert child[found[name].selected_on].all()
    draws = found[SCRATCH].draws.rows
    assert np.mean(child[draws]) == pytest.approx(0.5)
    rates = {cell.name: cell.options["model.learning_rate"] for cell in study.cells}
    assert rates[SLOWER] == pytest.approx(rates[FURTHER] / 10)  # type: ignore[operator]
    assert {cell.name for cell in study.cells if cell.start_from == BEFORE} == {FURTHER, SLOWER, *REHEARSE}


def test_another_group_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GROUP_VARIABLE, "gender=woman")
    study = build_study("data-imbalance", "tiny", "honest")
    assert study.cell(BEFORE).options["data.train_on"] == "gender!=woman"
    assert study.claims[0].lower == (BEFORE, "accuracy on gender=woman")
    for wrong in ("age", "age!=child"):
        monkeypatch.setenv(GROUP_VARIABLE, wrong)
        with pytest.raises(InputError, match="EMOTION_MISSING_GROUP must be column=value or column=one"):
            build_study("data-imbalance", "tiny", "honest")


def test_a_cell_starts_from_the_run_of_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[RunConfig] = []

    def trains(config: RunConfig) -> tuple[str, dict[str, float]]:
        requested.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_run_once", trains)
    monkeypatch.setattr(runner, "end_stale_run", lambda *_: None)
    runs = Outcomes([Outcome(BEFORE, 0, "run-0", {}), Outcome(BEFORE, 1, "run-1", {})])
    monkeypatch.setattr(Outcomes, "of_parent", lambda parent: runs)
    given = Options.read(["--data.size", "32"])
    settings = StudyRunner(build_study("data-imbalance", "tiny", "honest"), "tiny", "honest", given).settings("p")

    def begin(cell: str, seed: int) -> None:
        trial = SimpleNamespace(user_attrs={ENQUEUED: {"cell": cell, "seed": seed}})
        runner.run_cell(cast(optuna.Trial, trial), settings)

    for cell, start in ((FURTHER, "run-1"), (BEFORE, None)):
        with pytest.raises(KeyboardInterrupt):
            begin(cell, 1)
        assert (requested[-1].run["start_from"], requested[-1].data["size"]) == (start, 32)
    with pytest.raises(InputError, match="starts from 'without the group' with seed 2, which has not finished"):
        begin(FURTHER, 2)


@pytest.mark.filterwarnings("ignore")  # jsonargparse's, when a process is spawned to draw the faces
def test_a_start_is_an_earlier_cell_and_part_of_what_a_study_is() -> None:
    few: dict[str, Any] = {"recipe": "quick", "options": {"data.source": "drawn:largest=16,ratio=2,size=32"}}
    first, late = Cell(name="a", **few), Cell(name="b", **few, start_from="a")
    common: dict[str, Any] = {"name": "s", "about": "", "source": "", "tables": (), "claims": ()}
    with pytest.raises(InputError, match=r"must start from a cell of an earlier stage, got \['b'\]"):
        Study(cells=(first, late), **common)
    with pytest.raises(InputError, match=r"unknown \['gone'\]"):
        Study(cells=(first, Cell(name="b", **few, stage=1, start_from="gone")), **common)
    two = [
        Study(cells=(first, Cell(name="c", **few), Cell(name="b", **few, stage=1, start_from=start)),
              **common)
        for start in ("a", "c")
    ]  # fmt: skip
    keys = {StudyRunner(study, "tiny", "honest").key for study in two}
    assert len(keys) == 2
