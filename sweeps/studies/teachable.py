"""Teachable Machine's experiment: a small head on frozen features, over epochs and learning rates, with repeats."""

from sweeps.studies.schema import Cell, Claim, Entry, FigureSpec, Protocol, Scale, Study, Table, Value

BY_EPOCHS = dict(
    zip(
        (20, 50, 70, 100, 150, 250, 300, 400, 425, 450, 500, 600, 700),
        (0.467, 0.5, 0.5, 0.533, 0.533, 0.567, 0.6, 0.467, 0.567, 0.633, 0.533, 0.467, 0.467),
        strict=True,
    )
)
BY_RATE = {
    5e-5: 0.333,
    1e-4: 0.6,
    5e-4: 0.5,
    1e-3: 0.467,
    1.5e-3: 0.633,
    2e-3: 0.467,
    4e-3: 0.533,
    8e-3: 0.533,
    0.02: 0.433,
    0.025: 0.4,
    0.05: 0.2,
}
BY_CLASS = {"surprise": 0.63, "expressionless": 0.25, "angry": 0.38, "happy": 0.50, "sad": 0.38}
NEUTRAL = "neutral"  # what data sets call expressionless
USUAL = 1e-3
GIVEN: dict[str, Value] = {"data.split": "given", "data.leak": "drop_twins"}  # a test set of its own, as in the paper
SIZES: dict[Scale, dict[str, Value]] = {
    "paper": {**GIVEN, "data.size": 224, "model.backbone": "mobilenetv2_100", "model.weights": "hub"},
    "small": {**GIVEN, "data.size": 224, "model.backbone": "tf_efficientnet_lite0", "model.weights": "embedded"},
    "tiny": {
        "data.split": "holdout",
        "data.holdout_fraction": 0.15,
        "data.source": "drawn:largest=50,ratio=1,size=32,classes=surprise+neutral+angry+happy+sad",
        "data.size": 32,
        "model.backbone": "tf_efficientnet_lite0",
        "model.weights": "embedded",
        "run.resamples": 200,
    },
}
SEEDS: dict[Scale, int] = {"paper": 10, "small": 5, "tiny": 3}


def build(scale: Scale, protocol: Protocol) -> Study:
    """Return the study; one head of 700 epochs passes every number of epochs that was published."""
    tiny = scale == "tiny"
    marks = [epochs for epochs in BY_EPOCHS if not tiny or epochs in (20, 50, 100)]
    rates = [rate for rate in BY_RATE if not tiny or rate in (1e-4, 1e-3, 0.02)]
    last = marks[-1]
    options: dict[str, Value] = {
        "data.inner_fraction": 0.15,
        **SIZES[scale],
        "data.batch_size": 16,
        "data.protocol": protocol,
        "model.head_width": 100,
        "trainer.max_epochs": last,
    }
    if protocol == "paper":
        del options["data.inner_fraction"]
    cells = [_cell(f"rate {rate:g}", options | {"model.learning_rate": rate}, marks) for rate in rates]
    usual, flips = f"rate {USUAL:g}", "flips"
    cells.append(_cell(flips, options | {"model.learning_rate": USUAL}, marks, flips=True))
    at = {epochs: f"accuracy after {epochs}" for epochs in marks}
    over_epochs: dict[str, tuple[Entry | None, ...]] = {
        f"{epochs} epochs": (Entry(usual, at[epochs], BY_EPOCHS[epochs]), Entry(flips, at[epochs])) for epochs in marks
    }
    over_rates: dict[str, tuple[Entry | None, ...]] = {
        f"{rate:g}": (
            Entry(f"rate {rate:g}", at[last], BY_RATE[rate]),
            Entry(f"rate {rate:g}", "accuracy"),
            Entry(f"rate {rate:g}", "f1_macro"),
        )
        for rate in rates
    }
    classes: dict[str, tuple[Entry | None, ...]] = {
        name: (Entry(usual, f"recall_{_ours(name)}", BY_CLASS[name]), Entry(flips, f"recall_{_ours(name)}"))
        for name in BY_CLASS
    }
    best = max(marks, key=lambda epochs: BY_EPOCHS[epochs])
    claims = [
        Claim(
            f"{best} epochs are better than {epochs}",
            (usual, at[best]),
            (usual, at[epochs]),
            (BY_EPOCHS[best], BY_EPOCHS[epochs]),
        )
        for epochs in dict.fromkeys((marks[0], last))
        if epochs != best
    ]
    best_rate = max(rates, key=lambda rate: BY_RATE[rate])
    claims += [
        Claim(
            f"a learning rate of {best_rate:g} is better than {rate:g}",
            (f"rate {best_rate:g}", at[last]),
            (f"rate {rate:g}", at[last]),
            (BY_RATE[best_rate], BY_RATE[rate]),
        )
        for rate in (rates[0], rates[-1])
        if rate != best_rate
    ]
    claims += [
        Claim(
            f"{name} is recognised better than expressionless",
            (usual, f"recall_{name}"),
            (usual, f"recall_{NEUTRAL}"),
            (BY_CLASS[name], BY_CLASS["expressionless"]),
        )
        for name in BY_CLASS
        if name != "expressionless"
    ]
    claims.append(Claim("mirrored images that double the set raise accuracy", (flips, at[last]), (usual, at[last])))
    return Study(
        name="teachable",
        about="a small head on frozen features: accuracy over epochs and learning rates, with repeats",
        source="an experiment with Teachable Machine on 250 photographs of five emotions",
        cells=tuple(cells),
        tables=(
            Table(f"Test accuracy over epochs, learning rate {USUAL:g}", ("originals", "with mirrored"), over_epochs),
            Table(
                "Test accuracy over learning rates",
                (f"accuracy after {last} epochs", "accuracy, selected epoch", "macro F1, selected epoch"),
                over_rates,
                f"The selected epoch is the best of {last} by macro F1 on the part that is selected on.",
            ),
            Table("Recall of every class, selected epoch", ("originals", "with mirrored"), classes),
        ),
        claims=tuple(claims),
        figures=(
            FigureSpec(
                "spread",
                "Every repetition, over epochs",
                {"": usual},
                tuple(at.values()),
                {str(epochs): BY_EPOCHS[epochs] for epochs in marks},
            ),
            FigureSpec(
                "spread",
                f"Every repetition, over learning rates, after {last} epochs",
                {f"{rate:g}": f"rate {rate:g}" for rate in rates},
                (at[last],),
                {f"{rate:g}": BY_RATE[rate] for rate in rates},
            ),
        ),
        seeds=tuple(range(SEEDS[scale])),
        notes=(
            "The paper's numbers are single runs tested on 30 images, where one image is 3.3 points; a standard "
            "deviation over our repetitions shows how far two single runs may differ by chance.",
            "Accuracy after a number of epochs is on the test part and selects nothing; choosing the best number by "
            "it, as the paper does, is optimistic.",
            "Every repetition has its own initial weights and order, and with a given split its own val part of 15 %.",
        ),
    )


def _cell(name: str, options: dict[str, Value], marks: list[int], *, flips: bool = False) -> Cell:
    frozen = {"flips": flips, "marks": marks}
    return Cell(name=name, recipe="dense-dense", options=options, task="frozen", frozen=frozen)


def _ours(name: str) -> str:
    return NEUTRAL if name == "expressionless" else name
