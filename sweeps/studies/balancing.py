"""Ways to balance classes: which raises the F1 of a rare class, what it costs, and what a leak adds."""

from sweeps.studies.adjusted import TAU as SELECTED_TAU
from sweeps.studies.schema import (
    LARGEST,
    RAREST,
    Cell,
    Claim,
    Entry,
    FigureSpec,
    Metric,
    Protocol,
    Scale,
    Study,
    Table,
    Value,
)

NONE = "none"
COPIES, TRANSFORMED = "over-sampling, copies as they are", "over-sampling, copies transformed"
RETRAINED, NORMALISED, TAU = "classifier re-training (cRT)", "tau-normalisation", "test-time tau"
OVERSAMPLED: dict[str, dict[str, Value]] = {
    COPIES: {"data.n_min": "max"},
    TRANSFORMED: {
        "data.n_min": "max",
        "data.transforms": ["contrast", "cutout", "height", "width", "zoom"],
        "data.transform_where": "copies",
    },
}
LOSSES: dict[str, dict[str, Value]] = {
    "class weights": {"model.loss": "CrossEntropy", "model.loss.class_weights": "balanced"},
    "focal loss": {"model.loss": "Focal", "model.loss.gamma": 2.0},
    "logit adjustment": {"model.loss": "LogitAdjustment", "model.loss.tau": 1.5},
    "balanced softmax": {"model.loss": "BalancedSoftmax"},
    "LDAM, deferred re-weighting": {"model.loss": "LDAM", "model.loss.reweight_after": 0.8},
}
METHODS = (*OVERSAMPLED, *LOSSES, RETRAINED, NORMALISED, TAU)
LEAKY = {name: f"{name}, before the split" for name in OVERSAMPLED}
SIZES: dict[Scale, dict[str, Value]] = {  # over the recipe imbalance
    "tiny": {  # most images are tested on, since drawn ones cost little
        "data.source": "drawn:largest=360,ratio=10,size=48,confusion=0,annotators=0,"
        "classes=neutral+happy+sad+surprise+fear",
        "data.size": 48,
        "data.batch_size": 16,
        "data.holdout_fraction": 0.6,
        "data.inner_fraction": 0.2,
        "model.learning_rate": 0.002,
        "trainer.max_epochs": 7,
        "run.resamples": 200,
    },
    "small": {"data.holdout_fraction": 0.3, "data.inner_fraction": 0.15, "data.size": 48, "trainer.max_epochs": 8},
    "paper": {"data.holdout_fraction": 0.2, "data.inner_fraction": 0.1, "data.size": 64, "trainer.max_epochs": 30},
}
HEAD_RATE = 0.01  # learning rate of a new head on a frozen backbone
RARE: Metric = f"f1_{RAREST}"
COLUMNS: dict[str, Metric] = {
    "macro F1": "f1_macro",
    "F1, rarest class": RARE,
    "recall, rarest class": f"recall_{RAREST}",
    "precision, rarest class": f"precision_{RAREST}",
    "accuracy": "accuracy",
    "recall, largest class": f"recall_{LARGEST}",
}


def build(scale: Scale, protocol: Protocol) -> Study:
    """Return the study."""
    cells = _cells(scale, protocol)
    honest = [NONE, *METHODS]
    leaks = {name: name for pair in LEAKY.items() for name in pair}
    return Study(
        name="balancing",
        about="over-sampling, losses and adjusted classifiers: what helps a rare class, at what cost",
        source="no paper; each method is described in its own",
        cells=tuple(cells),
        tables=(
            _table("Every method", honest),
            _table("Over-sampled inside the train part, and before the split (a leak)", list(leaks)),
            Table(
                "Selected tau",
                ("tau", "macro F1 on the part it is selected on"),
                {name: (Entry(name, SELECTED_TAU), Entry(name, "val/best_f1_macro")) for name in (NORMALISED, TAU)},
            ),
        ),
        claims=tuple(_claims()),
        figures=(
            FigureSpec("differences", "Gains over none", {name: name for name in METHODS}, (RARE, "f1_macro")),
            FigureSpec("differences", "Loss of accuracy", {NONE: NONE}, ("accuracy",)),
            FigureSpec("differences", "Inflation by the leak", {name: name for name in LEAKY.values()}, (RARE,)),
        ),
        seeds=(0, 1, 2),
        notes=(
            "Every method trains for the same epochs and steps as `none`, which is training without balancing. Where "
            "over-sampling makes the set larger, each epoch uses a new random share of it. Classifier re-training adds "
            "as many steps of the head alone; tau-normalisation and test-time tau train nothing. These three start "
            "from the selected weights of `none` with the same seed.",
            "Over-sampling goes to the size of the largest class. All training images get the recipe's mild "
            "transforms, copies too; transformed copies get one of contrast, cutout, height, width and zoom as well.",
            "Epochs are selected by macro F1 on the val part, and so is tau. Logit adjustment with tau 1 is balanced "
            "softmax, so that it is run with tau 1.5.",
            "Before the split, copies of test images are trained on, and near-duplicates and people are divided; the "
            "test part then has other images where there are any, and claims compare the images that both have.",
        ),
    )


def _cells(scale: Scale, protocol: Protocol) -> list[Cell]:
    common: dict[str, Value] = {"data.split": "holdout", **SIZES[scale], "data.protocol": protocol}
    if protocol == "paper":
        del common["data.inner_fraction"]
    changes = OVERSAMPLED | LOSSES
    changes |= {LEAKY[name]: options | {"data.leak": "oversample_first"} for name, options in OVERSAMPLED.items()}
    later = [
        Cell(name=name, recipe="imbalance", options=common | change, stage=1, steps_of=NONE)
        for name, change in changes.items()
    ]
    head: dict[str, Value] = {"data.n_min": "max", "model.freeze": "all", "model.learning_rate": HEAD_RATE}
    later.append(
        Cell(
            name=RETRAINED,
            recipe="imbalance",
            options=common | head,
            stage=1,
            steps_of=NONE,
            start_from=NONE,
            new_head=True,
        )
    )
    later += [
        Cell(
            name=name,
            recipe="imbalance",
            options=common,
            task="adjust",
            stage=1,
            start_from=NONE,
            adjustment="tau" if name == TAU else "tau-normalisation",
        )
        for name in (NORMALISED, TAU)
    ]
    return [Cell(name=NONE, recipe="imbalance", options=common), *later]


def _table(title: str, cells: list[str]) -> Table:
    rows = {name: tuple(Entry(name, metric) for metric in COLUMNS.values()) for name in cells}
    return Table(title, tuple(COLUMNS), rows, intervals=True)


def _claims() -> list[Claim]:
    claims = []
    for name in METHODS:
        claims += [
            Claim(f"{name}: raises the F1 of the rarest class", (name, RARE), (NONE, RARE)),
            Claim(f"{name}: raises macro F1", (name, "f1_macro"), (NONE, "f1_macro")),
            Claim(f"{name}: costs accuracy", (NONE, "accuracy"), (name, "accuracy")),
        ]
    claims += [
        Claim(f"{leaky}: inflates {shown}", (leaky, metric), (name, metric))
        for name, leaky in LEAKY.items()
        for metric, shown in ((RARE, "the F1 of the rarest class"), ("f1_macro", "macro F1"))
    ]
    return claims
