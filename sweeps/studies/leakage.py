"""Inflation by leaking protocols: one recipe and the same images under each protocol."""

from sweeps.studies.schema import Cell, Claim, Entry, FigureSpec, Protocol, Scale, Study, Table, Value

HONEST = "honest"
LEAKS: dict[str, dict[str, Value]] = {
    "select and report on the same fold": {"data.protocol": "paper"},
    "duplicates and people across folds": {"data.leak": "duplicates"},
    "over-sample before splitting": {"data.leak": "oversample_first"},
    "all three": {"data.leak": "oversample_first", "data.protocol": "paper"},
}
SIZES: dict[Scale, dict[str, Value]] = {
    "tiny": {
        "data.source": "drawn:largest=60,ratio=5,size=32,subjects=40",
        "data.size": 32,
        "data.batch_size": 32,
        "model.backbone": "test_resnet",
        "model.weights": "none",
        "trainer.max_epochs": 3,
        "run.ema_decay": None,
        "run.resamples": 200,
    },
    "small": {"data.size": 48, "trainer.max_epochs": 5},
    "paper": {"data.size": 64, "trainer.max_epochs": 30},
}
FOLDS: dict[Scale, int] = {"tiny": 3, "small": 3, "paper": 5}


def build(scale: Scale, protocol: Protocol) -> Study:
    """Return the study; its cells differ in the protocol, so the study has none of its own."""
    del protocol
    options: dict[str, Value] = {"data.inner_fraction": 0.1, **SIZES[scale], "data.n_min": "max"}
    cells = [Cell(name=HONEST, recipe="balanced", options=options, folds=FOLDS[scale])]
    cells += [
        Cell(name=name, recipe="balanced", options=options | leak, folds=FOLDS[scale]) for name, leak in LEAKS.items()
    ]
    columns = ("macro F1", "accuracy")
    rows = {cell.name: (Entry(cell.name, "f1_macro"), Entry(cell.name, "accuracy")) for cell in cells}
    return Study(
        name="leakage",
        about="one recipe under the honest protocol and under leaky ones, and the inflation of each",
        source="no paper; the protocols that published numbers often come from",
        cells=tuple(cells),
        tables=(Table("The same images under each protocol", columns, rows),),
        claims=tuple(
            Claim(f"{name}: inflates {shown}", (name, metric), (HONEST, metric))
            for name in LEAKS
            for metric, shown in (("f1_macro", "macro F1"), ("accuracy", "accuracy"))
        ),
        figures=(
            FigureSpec("differences", "Inflation over the honest protocol", {n: n for n in LEAKS}, ("f1_macro",)),
        ),
        notes=(
            "Runs that select on the test fold also train on the images of the val part; the inflation includes both.",
            "If images have no near-duplicates and no person is in two images, splitting clusters changes nothing.",
            "Every image is predicted once under each protocol, so protocols are compared image by image.",
            "Over-sampling goes to the size of the largest class in all cells; only when it is done differs.",
        ),
    )
