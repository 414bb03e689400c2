"""Backbones with two dense layers on one data set: accuracy on training and test images, and cost."""

from sweeps.studies.schema import Cell, Claim, Entry, FigureSpec, Protocol, Scale, Study, Table, Value

PUBLISHED = {  # accuracy on training and test images of FER2013, 100 epochs
    "MobileNetV2": (0.96586, 0.64698),
    "EfficientNet-B0": (0.99362, 0.65798),
    "EfficientNet-B2": (0.99010, 0.65213),
}
HUB: dict[str, Value] = {"model.weights": "hub"}
MODELS: dict[Scale, dict[str, dict[str, Value]]] = {
    "paper": {
        "MobileNetV2": {"model.backbone": "mobilenetv2_100", **HUB},
        "EfficientNet-B0": {"model.backbone": "efficientnet_b0", **HUB},
        "EfficientNet-B2": {"model.backbone": "efficientnet_b2", **HUB},
    },
    "small": {f"EfficientNet-Lite{i}": {"model.backbone": f"tf_efficientnet_lite{i}"} for i in range(3)},
    "tiny": {
        name: {"model.backbone": name, "model.weights": "none"}
        for name in ("test_resnet", "test_efficientnet", "test_convnext")
    },
}
SIZES: dict[Scale, dict[str, Value]] = {
    "paper": {"data.split": "holdout"},
    "small": {
        "data.split": "holdout",
        "data.holdout_fraction": 0.3,
        "data.read.part": 0.2,
        "data.size": 48,
        "model.learning_rate": 0.0005,
        "trainer.max_epochs": 8,
    },
    "tiny": {
        "data.source": "drawn:largest=60,ratio=5,size=32",
        "data.split": "holdout",
        "data.size": 32,
        "data.batch_size": 32,
        "model.learning_rate": 0.001,
        "trainer.max_epochs": 6,
        "run.resamples": 200,
    },
}
BEST = {"paper": "EfficientNet-B0", "small": "EfficientNet-Lite1", "tiny": "test_efficientnet"}


def build(scale: Scale, protocol: Protocol) -> Study:
    """Return the study."""
    options = SIZES[scale] | {"data.protocol": protocol}
    cells = [Cell(name=name, recipe="dense-dense", options=options | model) for name, model in MODELS[scale].items()]
    ran = {cell.name: cell.name for cell in cells}
    metrics = ("train/accuracy", "accuracy", "f1_macro", "model/parameters", "model/flops")
    rows: dict[str, tuple[Entry | None, ...]] = {}
    for name in (*ran, *(name for name in PUBLISHED if name not in ran)):
        published = dict(zip(metrics, PUBLISHED.get(name, ()), strict=False))
        rows[name] = tuple(
            Entry(ran.get(name), metric, published.get(metric)) if name in ran or metric in published else None
            for metric in metrics
        )
    best = BEST[scale]
    claims = [
        Claim(
            f"{best} is more accurate on test images than {name}",
            (best, "accuracy"),
            (name, "accuracy"),
            (PUBLISHED[best][1], PUBLISHED[name][1]) if name in PUBLISHED else None,
        )
        for name in ran
        if name != best
    ]
    return Study(
        name="backbones",
        about="backbones with two dense layers: accuracy on training and test images, loss over epochs",
        source="a comparison of networks on FER2013 (MobileNetV2, EfficientNet-B0 and B2)",
        cells=tuple(cells),
        tables=(
            Table(
                "Training and test",
                ("accuracy, training", "accuracy, test", "macro F1, test", "parameters", "FLOPs an image"),
                rows,
                "Training accuracy is that of the selected epoch on the original training images.",
            ),
        ),
        claims=tuple(claims),
        figures=(
            FigureSpec(
                "curves",
                "Loss over epochs: solid on the train part, dashed on the part that selects the epoch",
                ran,
                ("loss",),
            ),
            FigureSpec("trade", "Accuracy over cost", ran, ("accuracy",)),
        ),
        notes=(
            "If the published backbones are not run, the middle one of those that are run takes the place of the best."
            if scale != "paper"
            else "The image size is that of the recipe.",
        ),
    )
