"""Study balancing: equal steps, heads on a frozen backbone, adjusted classifiers, and the rarest class."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import optuna
import pandas as pd
import pytest
import torch

from datamodules.errors import InputError
from datamodules.sampling import EpochBatchSampler
from lightning_modules.checkpoints import read_checkpoint
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.config import Options, RunConfig, data_module
from lightning_modules.decisions import LogitAdjustment, logarithms
from lightning_modules.training import train
from results.predictions import PREDICTIONS, SPLIT
from results.significance import seeds_t
from results.tracking.runs import load_table, run_checkpoint
from sweeps.studies import build_study, runner
from sweeps.studies.adjusted import TAU as SELECTED_TAU
from sweeps.studies.adjusted import answers, last_weight, run_adjusted, select_tau, tau_normalised
from sweeps.studies.analysis import Outcome, Outcomes, RunContext, evaluate_claims, jackknife, named_class
from sweeps.studies.balancing import COPIES, LEAKY, NONE, NORMALISED, RETRAINED, TAU
from sweeps.studies.report import write_report
from sweeps.studies.runner import StudyRunner
from sweeps.studies.schema import Cell, Claim, Entry, Study, Table, cell_config
from sweeps.workers import ENQUEUED

FACES = "drawn:largest=60,ratio=4,size=32,classes=happy+sad,confusion=0"
NETWORK = ["--data.size", "32", "--model.backbone", "test_resnet", "--model.weights", "none"]
SHORT = [
    *NETWORK,
    "--data",
    FACES,
    "--trainer.max_epochs",
    "1",
    "--run.resamples",
    "100",
    "--trainer.accelerator",
    "cpu",
]
CLASSES = ("happy", "sad", "fear", "angry")
COUNTS = (40, 8, 20, 8)


def predicted(seed: int) -> pd.DataFrame:
    """Predictions of classes of different sizes, of which a seed's share is right."""
    label = np.repeat(np.array(CLASSES, dtype=object), COUNTS)
    generator = np.random.default_rng(seed)
    said = np.where(generator.random(len(label)) < 0.6, label, generator.choice(np.array(CLASSES), len(label)))
    rows = np.arange(len(label))
    table = pd.DataFrame({"row": rows, "path": [f"{row}.png" for row in rows]})
    table["content"] = [f"{row:04d}" for row in rows]
    table = table.assign(cluster=rows // 2, subject="", fold=0, label=label, predicted=said)
    return table.assign(**{f"prob_{name}": (said == name).astype(float) for name in CLASSES})


def outcome(cell: str, seed: int) -> Outcome:
    found = Outcome(cell, seed, f"run-{cell}-{seed}", {})
    found.__dict__["predictions"] = predicted(seed + 10 * len(cell))
    names = [f"{kind}_{name}" for kind in ("f1", "recall") for name in CLASSES]
    values = {metric: jackknife([found.predictions], [metric]) for metric in ("f1_macro", "accuracy", *names)}
    found.__dict__["intervals"] = pd.DataFrame(
        [
            {"metric": metric if metric in ("f1_macro", "accuracy") else metric.partition("_")[0],
             "class": metric.partition("_")[2] if metric in names else "", "value": value.values[0],
             "low": 0.0, "high": 1.0}
            for metric, value in values.items() if value
        ]
    )  # fmt: skip
    return found


def test_the_rarest_class_is_that_of_the_test_images() -> None:
    table = predicted(0)
    assert named_class(table, "<rarest>") == "sad"  # the first of two with eight images
    assert named_class(table, "<largest>") == "happy"
    assert named_class(table[table["label"] != "sad"], "<rarest>") == "angry"  # a class without images does not count
    assert named_class(table, "fear") == "fear"
    run = outcome("a", 1)
    for kind in ("f1", "recall"):
        assert run.number(f"{kind}_<rarest>") == run.number(f"{kind}_sad")
        shared = jackknife([run.predictions] * 2, [f"{kind}_<rarest>", f"{kind}_sad"])
        assert shared is not None
        assert shared.values[0] == shared.values[1]
        assert (shared.without[:, 0] == shared.without[:, 1]).all()


def test_a_mean_over_seeds_has_an_interval_over_seeds_and_images(tmp_path: Path) -> None:
    runs = [outcome("a", seed) for seed in range(3)]
    outcomes = Outcomes(runs)
    number = outcomes.number("a", "f1_<rarest>", interval=True)
    assert number is not None
    shared = jackknife([run.predictions for run in runs], ["f1_sad"] * 3)
    assert shared is not None
    _, low, high = seeds_t(shared.values, shared.without)
    assert (number.value, number.low, number.high) == pytest.approx((shared.values.mean(), max(0, low), min(1, high)))
    spread = outcomes.number("a", "f1_<rarest>")
    assert spread is not None
    assert (spread.low, spread.high) == (shared.values.min(), shared.values.max())
    two = Outcomes(runs[:2]).number("a", "f1_<rarest>", interval=True)
    assert two is not None
    assert (two.low, two.high) == (shared.values[:2].min(), shared.values[:2].max())  # too few for an interval
    rows: dict[str, Any] = {"a": (Entry("a", "f1_<rarest>"),)}
    claim = Claim("a beats a", ("a", "f1_<rarest>"), ("a", "f1_<rarest>"))
    cells, tables = (Cell(name="a", recipe="quick"),), (Table("T", ("F1",), rows, intervals=True),)
    study = Study(name="s", about="x", source="y", cells=cells, tables=tables, claims=(claim,), seeds=(0, 1, 2))
    paths = write_report(study, outcomes, RunContext("small", "honest", "faces", (), "7", "parent"), tmp_path)
    text = paths[0].read_text(encoding="utf-8")
    assert "The rarest class is sad (8 of 76 test images), the largest happy (40)." in text
    assert "the 95 % interval over seeds and images" in text
    assert f"{number.low:.3f} to {number.high:.3f}" in text


def test_the_f1_of_one_class_has_an_interval_over_images_before_there_are_three_seeds() -> None:
    runs = [outcome(cell, seed) for cell in ("a", "bb") for seed in (0, 1)]
    claim = Claim("a beats bb", ("a", "f1_<rarest>"), ("bb", "f1_<rarest>"))
    (found,) = evaluate_claims([claim], Outcomes(runs))
    assert found.verdict == "not tested"
    assert found.p_value is None
    assert found.low < found.difference < found.high
    assert found.test == "interval over images, 2 seeds together; a test needs 3 seeds"
    (one,) = evaluate_claims([claim], Outcomes([runs[0], runs[2]]))
    values = [run.number("f1_sad")[0] for run in (runs[0], runs[2])]
    assert one.difference == pytest.approx(values[0] - values[1])


def test_tau_normalised_weights_have_their_lengths_to_the_power_one_less_tau() -> None:
    generator = np.random.default_rng(0)
    features, weight = generator.normal(size=(5, 6)), generator.normal(size=(3, 6)) * [[1], [4], [9]]
    assert tau_normalised(features, weight, 0.0) == pytest.approx(features @ weight.T)
    found = tau_normalised(features, weight, 0.7)
    for row in range(5):
        for column in range(3):
            length = sum(value**2 for value in weight[column]) ** 0.5
            assert found[row, column] == pytest.approx(sum(features[row] * weight[column]) / length**0.7)


def test_tau_is_the_smallest_with_the_best_macro_f1() -> None:
    # the weights of the frequent class are longer, so that a feature that points between both goes to it
    weight = np.array([[4.0, 0.0], [0.0, 1.0]])
    features = np.array([[1.0, 0.2], [1.0, 0.5], [0.6, 1.0], [0.4, 1.0]])
    label = np.array([0, 0, 1, 1])
    tau, best = select_tau(features, weight, label)
    assert best == 1.0
    # 0.6 * 4 ** (1 - tau) < 1 from tau 0.632 on
    assert tau == 0.65
    assert select_tau(features, weight, np.array([0, 0, 0, 0])) == (0.0, 1.0)


def test_a_study_asks_earlier_cells_for_steps_weights_and_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[tuple[RunConfig, str]] = []

    def stops(config: RunConfig, *cell: Cell) -> tuple[str, dict[str, float]]:
        requested.append((config, cell[0].adjustment or "" if cell else "fit"))
        raise KeyboardInterrupt

    split = pd.DataFrame({"role": ["train"] * 131 + ["val"] * 20 + ["test"] * 50})
    monkeypatch.setattr(runner, "_run_once", stops)
    monkeypatch.setattr(runner, "run_adjusted", stops)
    monkeypatch.setattr(runner, "end_stale_run", lambda *_: None)
    monkeypatch.setattr(runner, "load_table", lambda run_id, name: {("run-1", SPLIT): split}[run_id, name])
    monkeypatch.setattr(runner, "run_checkpoint", lambda run_id: Path(f"{run_id}.ckpt"))
    runs = Outcomes([Outcome(NONE, seed, f"run-{seed}", {}) for seed in (0, 1)])
    monkeypatch.setattr(Outcomes, "of_parent", lambda parent: runs)
    study = StudyRunner(build_study("balancing", "tiny", "honest"), "tiny", "honest", Options.read([]))
    settings = study.settings("parent")

    def begin(cell: str, seed: int = 1) -> tuple[RunConfig, str]:
        trial = SimpleNamespace(user_attrs={ENQUEUED: {"cell": cell, "seed": seed}})
        with pytest.raises(KeyboardInterrupt):
            runner.run_cell(cast(optuna.Trial, trial), settings)
        return requested[-1]

    config, how = begin(NONE)
    assert (how, config.trainer["limit_train_batches"], config.run["start_from"]) == ("fit", None, None)
    config, how = begin(COPIES)
    assert (how, config.trainer["limit_train_batches"], config.run["start_from"]) == ("fit", 9, None)  # 8 x 16 and 3
    config, how = begin(RETRAINED)
    assert (how, config.trainer["limit_train_batches"], config.run["start_from"]) == ("fit", 9, None)
    assert (config.model["weights"], config.model["freeze"]) == ("run-1.ckpt", "all")
    for limit, steps in ((0.5, 4), (1.0, 9), (3, 3), (0.01, 1)):
        for each in settings["configs"].values():
            each["trainer"]["limit_train_batches"] = limit
        assert begin(COPIES)[0].trainer["limit_train_batches"] == steps
    for cell, adjustment in ((TAU, "tau"), (NORMALISED, "tau-normalisation")):
        config, how = begin(cell)
        assert (how, config.run["start_from"]) == (adjustment, "run-1")
    with pytest.raises(InputError, match="starts from 'none' with seed 2, which has not finished"):
        begin(COPIES, 2)


def test_an_epoch_of_a_finished_run_has_the_steps_of_its_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in (64, 65, 66, 1):  # a single row joins the batch before
        split = pd.DataFrame({"role": ["train"] * rows + ["test"]})
        monkeypatch.setattr(runner, "load_table", lambda *_, split=split: split)
        if rows == 1:
            with pytest.raises(InputError):
                runner.epoch_steps("run", 32)
            continue
        assert runner.epoch_steps("run", 32) == len(EpochBatchSampler(rows, 32, seed=3))


def test_cells_of_the_study_are_what_their_names_say() -> None:
    study = build_study("balancing", "small", "honest")
    given = Options.read(["--data", FACES])
    first = data_module(cell_config(study.cells[0], given))
    for cell in study.cells:
        data = data_module(cell_config(cell, given))
        data.share(first)
        counts = data.train_counts
        even = (*LEAKY, *LEAKY.values(), RETRAINED)
        assert (len(set(counts.tolist())) == 1) == (cell.name in even), cell.name
        assert (data.plan.leak == "oversample_first") == (cell.name in LEAKY.values())
    assert {cell.name for cell in study.cells if not cell.needs} == {NONE}


@pytest.fixture
def trained(workplace: Path) -> str:
    """A finished run of one epoch."""
    study = build_study("balancing", "tiny", "honest")
    done = train(cell_config(study.cell(NONE), Options.read(SHORT)))
    assert done is not None
    return done.run_id


@pytest.mark.filterwarnings("ignore")  # MLflow's and Lightning's advice
def test_an_adjusted_classifier_answers_by_what_the_val_part_selected(trained: str) -> None:
    study = build_study("balancing", "tiny", "honest")
    raw = load_table(trained, PREDICTIONS)
    columns = ["prob_happy", "prob_sad"]
    for name in (TAU, NORMALISED):
        cell = study.cell(name)
        config = cell_config(cell, Options.read(SHORT)).override({"run.start_from": trained, "run.name": name})
        run_id, numbers = run_adjusted(config, cell)
        found = load_table(run_id, PREDICTIONS)
        assert (found["row"] == raw["row"]).all()
        data = data_module(config)
        model = EmotionClassifier.from_checkpoint(run_checkpoint(trained))
        val = answers(model, data, data.selected_on)
        label = data.manifest.labels[data.selected_on]
        if name == TAU:
            step = LogitAdjustment.fit(logarithms(val.probabilities), label)
            powers = raw[columns].to_numpy() / np.array(step.shares) ** step.tau
            expected = powers / powers.sum(axis=1, keepdims=True)
            assert numbers[SELECTED_TAU] == step.tau
        else:
            weight = last_weight(model)
            tau, best = select_tau(val.features, weight, label)
            assert (numbers[SELECTED_TAU], numbers["val/best_f1_macro"]) == (tau, best)
            test = answers(model, data, data.fold_rows.test)
            logits = torch.tensor(tau_normalised(test.features, weight, tau))
            expected = logits.softmax(1).numpy()
            # the inputs of the last layer give the network's own probabilities
            bias = cast(Any, model.head)[-1].bias.detach().double().numpy()
            own = torch.tensor(tau_normalised(test.features, weight, 0.0) + bias).softmax(1).numpy()
            assert own == pytest.approx(test.probabilities, abs=1e-5)
        assert found[columns].to_numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_study_runs_and_its_new_heads_keep_the_backbone(workplace: Path) -> None:
    """Four trainings."""
    names = [NONE, COPIES, RETRAINED, NORMALISED, TAU, LEAKY[COPIES]]
    study = replace(build_study("balancing", "tiny", "honest"), seeds=(0,))
    study_runner = StudyRunner(study, "tiny", "honest", Options.read(SHORT), only_cells=names)
    assert study_runner.run() == {}
    parent = study_runner.find_parent()
    assert parent is not None
    outcomes = Outcomes.of_parent(parent)
    assert sorted({run.cell for run in outcomes.runs}) == sorted(names)
    assert len(outcomes) == len(names)
    before, after = (
        read_checkpoint(run_checkpoint(outcomes.of(cell)[0].run_id))["state_dict"] for cell in (NONE, RETRAINED)
    )
    backbone = [name for name in before if name.startswith("backbone.")]
    assert all(torch.equal(before[name], after[name]) for name in backbone)
    assert not torch.equal(before["head.1.weight"], after["head.1.weight"])
    report = Path("mlruns", "reports", study_runner.key, "report.md").read_text(encoding="utf-8")
    assert "6 of 13 cells finished" in report
    assert "The rarest class is sad" in report
