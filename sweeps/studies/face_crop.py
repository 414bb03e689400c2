"""K-EmotionNet's study: whole images, face crops by OpenCV's cascade and by a detector, and three networks."""

import os

from datamodules.errors import InputError
from datamodules.readers.face_crops import BOXES
from sweeps.studies.schema import Cell, Claim, Entry, FigureSpec, Protocol, Scale, Study, Table, Value

DETECTOR_VARIABLE = "EMOTION_FACE_DETECTOR"
MODELS = ("VGG19", "ResNet18", "K-EmotionNet")
PUBLISHED = {  # accuracy and its standard deviation over repeats, in per cent
    "whole image": dict(zip(MODELS, ((14.30, 0.42), (15.60, 0.30), (15.09, 0.23)), strict=True)),
    "cascade crop": dict(zip(MODELS, ((58.95, 0.45), (60.35, 0.43), (61.81, 0.55)), strict=True)),
    "detector crop": dict(zip(MODELS, ((82.76, 0.37), (81.72, 1.06), (84.37, 0.17)), strict=True)),
}
INPUTS = tuple(PUBLISHED)
SCRATCH: dict[str, dict[str, Value]] = {
    "VGG19": {"model.backbone": "vgg19_bn", "model.weights": "none"},
    "ResNet18": {"model.backbone": "resnet18", "model.weights": "none"},
    "K-EmotionNet": {"model.backbone": "k_emotionnet", "model.weights": "none"},
}
RUN: dict[Scale, dict[str, dict[str, Value]]] = {
    "paper": SCRATCH,
    "small": SCRATCH,
    "tiny": {"EfficientNet-Lite0": {"model.backbone": "tf_efficientnet_lite0", "model.weights": "embedded"}},
}
SIZES: dict[Scale, dict[str, Value]] = {
    "paper": {"data.read.per_class": 7000, "data.read.face_size": 500},
    "small": {
        "data.size": 64,
        "data.read.face_size": 96,
        "trainer.max_epochs": 20,
    },
    "tiny": {
        # clear expressions, so that only the crop loses accuracy; posters, in which the cascade finds faces
        "data.source": "scenes:images=1000,size=320,subjects=330,confusion=0,distractors=3,"
        "classes=happy+angry+sad+neutral",
        "data.size": 64,
        "data.batch_size": 32,
        "data.read.face_size": 80,
        "data.read.face_margin": 0.1,
        "model.learning_rate": 0.001,
        "trainer.max_epochs": 8,
        "run.resamples": 200,
    },
}
SEEDS: dict[Scale, int] = {"paper": 3, "small": 3, "tiny": 3}
# The data's own 8:1:1 by person is reported on, so that every input is tested on the same photographs.
GIVEN: dict[str, Value] = {"data.split": "given", "data.outer": "test", "data.leak": "drop_twins"}


def build(scale: Scale, protocol: Protocol) -> Study:
    """Return the study; the detector is that of the environment variable, else the boxes that the data bring.

    Raises:
        InputError: The variable names no detector.
    """
    detector = os.environ.get(DETECTOR_VARIABLE, "").strip() or BOXES
    if detector != BOXES and not (detector.startswith("yunet:") or detector.lower().endswith(".onnx")):
        msg = (
            f"{DETECTOR_VARIABLE} must be yunet:FILE, FILE.onnx or {BOXES}, got {detector!r}; leave it out for {BOXES}"
        )
        raise InputError(msg)
    options: dict[str, Value] = {**GIVEN, **SIZES[scale], "data.protocol": protocol}
    if protocol == "paper":  # selects on the reported part, and sets none aside
        options["data.inner_fraction"] = 0
    inputs: dict[str, dict[str, Value]] = {
        "whole image": {"data.fit": "stretch"},
        "cascade crop": {"data.read.faces": "haar"},
        "detector crop": {"data.read.faces": detector},
    }
    cells = []
    for name, input_options in inputs.items():
        common = {
            key: value for key, value in options.items() if "face_" not in key or "data.read.faces" in input_options
        }
        for model, chosen in RUN[scale].items():
            cells.append(Cell(name=f"{name}, {model}", recipe="k-emotionnet", options=common | input_options | chosen))
    ran = {cell.name for cell in cells}
    models = (*RUN[scale], *(model for model in MODELS if model not in RUN[scale]))
    rows: dict[str, tuple[Entry | None, ...]] = {
        name: tuple(_entry(name, model, ran) for model in models) for name in INPUTS
    }
    pairs = (("detector crop", "cascade crop"), ("cascade crop", "whole image"), ("detector crop", "whole image"))
    claims = [
        Claim(
            f"{model}: a {above} is recognised better than a {below}",
            (f"{above}, {model}", "accuracy"),
            (f"{below}, {model}", "accuracy"),
            (PUBLISHED[above][model][0] / 100, PUBLISHED[below][model][0] / 100) if model in MODELS else None,
        )
        for model in RUN[scale]
        for above, below in pairs
    ]
    claims += [
        Claim(
            f"detector crop: K-EmotionNet is more accurate than {model}",
            ("detector crop, K-EmotionNet", "accuracy"),
            (f"detector crop, {model}", "accuracy"),
            (PUBLISHED["detector crop"]["K-EmotionNet"][0] / 100, PUBLISHED["detector crop"][model][0] / 100),
        )
        for model in RUN[scale]
        if "K-EmotionNet" in RUN[scale] and model != "K-EmotionNet"
    ]
    spread = "; ".join(
        f"{name}: " + ", ".join(f"{model} {mean:.2f} ± {sd:.2f}" for model, (mean, sd) in accuracies.items())
        for name, accuracies in PUBLISHED.items()
    )
    which = "the boxes that annotators drew" if detector == BOXES else detector.rsplit("/", 1)[-1]
    return Study(
        name="face-crop",
        about="whole photographs, crops by OpenCV's cascade and by a detector: accuracy of networks, with repeats",
        source="a paper on Korean expressions (K-EmotionNet), AI-Hub's Korean set",
        cells=tuple(cells),
        tables=(Table("Accuracy of each input and network", models, rows),),
        claims=tuple(claims),
        figures=(
            FigureSpec(
                "spread",
                "Every repetition, by input",
                {cell.name: cell.name for cell in cells},
                ("accuracy",),
                {
                    f"{name}, {model}": PUBLISHED[name][model][0] / 100
                    for name in INPUTS
                    for model in MODELS
                    if f"{name}, {model}" in ran
                },
            ),
        ),
        seeds=tuple(range(SEEDS[scale])),
        notes=(
            f"The detector crop is made by {which}; {DETECTOR_VARIABLE}=yunet:FILE or FILE.onnx selects a detector.",
            f"Published accuracies with standard deviations (per cent): {spread}.",
            "Photographs in which the cascade finds no face are used whole, so that every input has the same rows.",
            "The confusion matrix of every run is among its artifacts.",
        ),
    )


def _entry(name: str, model: str, ran: set[str]) -> Entry:
    published = PUBLISHED[name][model][0] / 100 if model in MODELS else None
    cell = f"{name}, {model}"
    return Entry(cell if cell in ran else None, "accuracy", published)
