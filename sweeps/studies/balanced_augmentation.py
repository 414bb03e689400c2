"""Balanced augmentation: single transforms, the best five of them, over-sampling with these, and larger networks."""

from sweeps.spaces import TRANSFORMS
from sweeps.studies.schema import Cell, Choice, Claim, Entry, FigureSpec, Protocol, Scale, Study, Table, Value

NONE = "none"
PAPERS = ("VGG-16", "ResNet-50", "EfficientNet-B0")
# cross-entropy with the three networks, then focal loss with them
PUBLISHED = {
    NONE: (54.36, 0.189, 56.82, 0.257, 57.86, 0.261, 54.35, 0.185, 56.76, 0.248, 57.68, 0.249),
    "blur": (54.69, 0.198, 56.92, 0.266, 58.15, 0.274, 55.19, 0.206, 57.30, 0.277, 58.24, 0.275),
    "crop": (54.94, 0.199, 57.33, 0.271, 58.22, 0.274, 55.36, 0.208, 57.22, 0.280, 58.35, 0.287),
    "flip": (54.69, 0.189, 57.28, 0.262, 58.21, 0.274, 55.18, 0.198, 57.10, 0.263, 57.92, 0.272),
    "rotation": (54.94, 0.200, 57.21, 0.263, 58.07, 0.268, 55.27, 0.201, 57.19, 0.277, 58.25, 0.280),
    "translation": (55.06, 0.201, 57.15, 0.271, 58.14, 0.274, 55.18, 0.205, 57.16, 0.280, 58.27, 0.279),
    "cutout": (54.84, 0.200, 57.14, 0.262, 58.11, 0.271, 55.18, 0.202, 57.01, 0.269, 58.35, 0.280),
    "contrast": (54.97, 0.191, 57.31, 0.273, 58.44, 0.275, 55.20, 0.202, 57.44, 0.280, 57.94, 0.280),
    "height": (54.75, 0.197, 57.18, 0.269, 58.37, 0.276, 55.41, 0.202, 57.28, 0.283, 58.04, 0.272),
    "width": (55.07, 0.199, 57.16, 0.269, 58.17, 0.276, 55.13, 0.201, 57.28, 0.276, 58.37, 0.283),
    "zoom": (54.85, 0.198, 57.23, 0.271, 58.41, 0.275, 55.18, 0.206, 57.25, 0.271, 58.36, 0.281),
}
BASELINE, SAMPLED = "baseline", "over-sampling"
ALL_TEN, PROPOSED = f"{SAMPLED}, all ten", f"{SAMPLED}, chosen five"
TABLE_4 = {BASELINE: (57.68, 0.249), SAMPLED: (56.81, 0.319), ALL_TEN: (57.13, 0.319), PROPOSED: (57.18, 0.325)}
LARGEST = "EfficientNet-B5"
FIGURE_5 = {LARGEST: (59.24, 0.348)}  # the others stand in the paper's figure alone

TWICE = "none, as many steps"
LOSSES: dict[str, dict[str, Value]] = {
    "cross-entropy": {"model.loss": "CrossEntropy"},
    "focal": {"model.loss": "Focal", "model.loss.alpha": 0.25, "model.loss.gamma": 2.0},
}
HUB: dict[str, Value] = {"model.weights": "hub"}
NETWORKS: dict[Scale, dict[str, dict[str, Value]]] = {
    "paper": {
        "VGG-16": {"model.backbone": "vgg16", **HUB},
        "ResNet-50": {"model.backbone": "resnet50", **HUB},
        "EfficientNet-B0": {"model.backbone": "efficientnet_b0", **HUB},
    },
    "small": {"EfficientNet-Lite0": {"model.backbone": "tf_efficientnet_lite0"}},
    "tiny": {"test_resnet": {"model.backbone": "test_resnet", "model.weights": "none"}},
}
LARGER: dict[Scale, dict[str, dict[str, Value]]] = {
    "paper": {f"EfficientNet-B{i}": {"model.backbone": f"efficientnet_b{i}", **HUB} for i in range(1, 6)},
    "small": {f"EfficientNet-Lite{i}": {"model.backbone": f"tf_efficientnet_lite{i}"} for i in (1, 2)},
    "tiny": {"test_efficientnet": {"model.backbone": "test_efficientnet", "model.weights": "none"}},
}
SINGLE: dict[Scale, dict[str, Value]] = {  # over the recipe paper-doubled
    "paper": {},
    "small": {
        "data.split": "holdout",
        "data.holdout_fraction": 0.3,
        "data.read.part": 0.2,
        "data.size": 48,
        "model.learning_rate": 0.001,
        "model.schedule": "one_cycle",
        "model.warmup": 0.2,
        "trainer.max_epochs": 3,
    },
    "tiny": {
        "data.source": "drawn:largest=60,ratio=5,size=32",
        "data.split": "holdout",
        "data.size": 32,
        "data.batch_size": 16,
        "model.learning_rate": 0.001,
        "trainer.max_epochs": 3,
        "run.resamples": 200,
    },
}
FINAL: dict[Scale, dict[str, Value]] = {  # over the recipe paper-balanced
    "paper": {},
    "small": SINGLE["small"] | {"data.n_min": 0.25, "trainer.max_epochs": 6, "run.patience": None},
    "tiny": SINGLE["tiny"] | {"data.n_min": 0.5, "run.patience": None},
}
EPOCHS: dict[Scale, int] = {"paper": 30, "small": 3, "tiny": 3}
FOLDS: dict[Scale, int] = {"paper": 5, "small": 0, "tiny": 0}
NO_TRANSFORM: dict[str, Value] = {"data.transforms": [], "data.transform_where": "none", "data.once": False}


def build(scale: Scale, protocol: Protocol) -> Study:
    """Return the study; transforms are chosen with focal loss and the last of the networks."""
    networks, main = NETWORKS[scale], list(NETWORKS[scale])[-1]
    cells = [cell for loss in LOSSES for network in networks for cell in _singles(scale, protocol, loss, network)]
    final = _final(scale, protocol, main)
    larger = _larger(scale, protocol)
    in_figure = {name: larger[name].name for name in larger} | {main: final[PROPOSED].name}
    tested = {cell.name: cell.name for cell in (*cells, *final.values(), *larger.values())}
    return Study(
        name="balanced-augmentation",
        about="which transforms help, over-sampling with the best five of them, and larger networks",
        source="balanced data augmentation for visual emotion recognition (SE30K8, about 28,000 images, 8 emotions)",
        cells=(*cells, *final.values(), *larger.values()),
        tables=(
            *(_single_table(loss, list(networks)) for loss in LOSSES),
            Table(
                f"Over-sampling, {main}, focal loss",
                ("accuracy", "macro F1"),
                {name: _both(final[name].name, TABLE_4[name]) for name in final},
            ),
            Table(
                "Networks under the proposed method",
                ("accuracy", "macro F1", "parameters", "FLOPs an image"),
                _network_rows(in_figure),
            ),
        ),
        claims=tuple(_claims(main, {name: cell.name for name, cell in final.items()}, in_figure)),
        figures=(
            FigureSpec("differences", "Claims, with intervals", tested, ("f1_macro", "accuracy")),
            FigureSpec("trade", "Scores over parameters and FLOPs", in_figure, ("accuracy", "f1_macro")),
        ),
        choice=Choice({name: _name("focal", main, name) for name in TRANSFORMS}, 5),
        notes=(
            "A set doubled by transformed copies takes twice the steps of one that is not; the row "
            f"'{NONE}, as many steps' trains twice the epochs without a transform, and is not in the paper.",
        ),
    )  # fmt: skip


def _name(loss: str, network: str, transform: str) -> str:
    return f"{network}, {loss}, {transform}"


def _singles(scale: Scale, protocol: Protocol, loss: str, network: str) -> list[Cell]:
    options = SINGLE[scale] | {"data.protocol": protocol} | NETWORKS[scale][network] | LOSSES[loss]
    changes: dict[str, dict[str, Value]] = {
        NONE: NO_TRANSFORM,
        TWICE: NO_TRANSFORM | {"trainer.max_epochs": 2 * EPOCHS[scale]},
        **{name: {"data.transforms": [name]} for name in TRANSFORMS},
    }
    return [
        Cell(name=_name(loss, network, name), recipe="paper-doubled", options=options | change, folds=FOLDS[scale])
        for name, change in changes.items()
    ]


def _final(scale: Scale, protocol: Protocol, network: str) -> dict[str, Cell]:
    options = FINAL[scale] | {"data.protocol": protocol} | NETWORKS[scale][network]
    changes: dict[str, dict[str, Value]] = {
        BASELINE: NO_TRANSFORM | {"data.n_min": None},
        SAMPLED: NO_TRANSFORM,
        ALL_TEN: {"data.transforms": list(TRANSFORMS)},
        PROPOSED: {},
    }
    return {
        name: Cell(
            name=name, recipe="paper-balanced", options=options | change, folds=FOLDS[scale], stage=1,
            chosen=name == PROPOSED,
        )
        for name, change in changes.items()
    }  # fmt: skip


def _larger(scale: Scale, protocol: Protocol) -> dict[str, Cell]:
    others = {name: model for name, model in NETWORKS[scale].items() if name != list(NETWORKS[scale])[-1]}
    return {
        name: Cell(
            name=f"{name}, proposed",
            recipe="paper-balanced",
            options=FINAL[scale] | {"data.protocol": protocol} | model,
            folds=FOLDS[scale],
            stage=1,
            chosen=True,
        )
        for name, model in (others | LARGER[scale]).items()
    }


def _both(cell: str | None, published: tuple[float, float] | None) -> tuple[Entry | None, ...]:
    accuracy, f1 = (published[0] / 100, published[1]) if published else (None, None)
    return Entry(cell, "accuracy", accuracy), Entry(cell, "f1_macro", f1)


def _single_table(loss: str, networks: list[str]) -> Table:
    shown = [*networks, *(name for name in PAPERS if name not in networks)]
    rows: dict[str, tuple[Entry | None, ...]] = {}
    for name in (NONE, TWICE, *TRANSFORMS):
        row: list[Entry | None] = []
        for network in shown:
            cell = _name(loss, network, name) if network in networks else None
            published = None
            if network in PAPERS and name in PUBLISHED:
                at = 2 * (list(LOSSES).index(loss) * len(PAPERS) + PAPERS.index(network))
                published = PUBLISHED[name][at], PUBLISHED[name][at + 1]
            row += _both(cell, published) if cell or published else (None, None)
        rows[name] = tuple(row)
    columns = tuple(f"{network}, {metric}" for network in shown for metric in ("accuracy", "macro F1"))
    return Table(f"Single transforms, {loss}", columns, rows)


def _network_rows(cells: dict[str, str]) -> dict[str, tuple[Entry | None, ...]]:
    known = {PAPERS[-1]: TABLE_4[PROPOSED], **FIGURE_5}
    rows: dict[str, tuple[Entry | None, ...]] = {}
    for name in (*cells, *(name for name in known if name not in cells)):
        cell = cells.get(name)
        costs = (Entry(cell, "model/parameters"), Entry(cell, "model/flops")) if cell else (None, None)
        rows[name] = (*_both(cell, known.get(name)), *costs)
    return rows


def _claims(main: str, final: dict[str, str], networks: dict[str, str]) -> list[Claim]:
    at = {loss: 2 * (place * len(PAPERS) + len(PAPERS) - 1) + 1 for place, loss in enumerate(LOSSES)}
    claims = [
        Claim(
            f"{name} raises macro F1 ({loss})",
            (_name(loss, main, name), "f1_macro"),
            (_name(loss, main, NONE), "f1_macro"),
            (PUBLISHED[name][at[loss]], PUBLISHED[NONE][at[loss]]),
        )
        for loss in LOSSES
        for name in TRANSFORMS
    ]
    focal, other = reversed(LOSSES)
    claims += [
        Claim(
            f"focal loss raises macro F1 ({name})",
            (_name(focal, main, name), "f1_macro"),
            (_name(other, main, name), "f1_macro"),
            (PUBLISHED[name][at[focal]], PUBLISHED[name][at[other]]),
        )
        for name in ("crop", "zoom")
    ]
    claims += [
        Claim(text, (final[higher], metric), (final[lower], metric), _pair(higher, lower, metric))
        for text, higher, lower, metric in (
            ("over-sampling raises macro F1", SAMPLED, BASELINE, "f1_macro"),
            ("over-sampling costs accuracy", BASELINE, SAMPLED, "accuracy"),
            ("the proposed method raises macro F1", PROPOSED, BASELINE, "f1_macro"),
            ("the chosen five raise macro F1 over over-sampling alone", PROPOSED, SAMPLED, "f1_macro"),
            ("the chosen five raise macro F1 over all ten", PROPOSED, ALL_TEN, "f1_macro"),
        )
    ]
    largest, smallest = (LARGEST, PAPERS[-1]) if LARGEST in networks else (list(networks)[-2], main)
    known = (FIGURE_5[LARGEST][1], TABLE_4[PROPOSED][1]) if LARGEST in networks else None
    ends = (networks[largest], "f1_macro"), (networks[smallest], "f1_macro")
    return [*claims, Claim(f"{largest} has a higher macro F1 than {smallest}", *ends, known)]


def _pair(higher: str, lower: str, metric: str) -> tuple[float, float]:
    place, scale = (0, 100.0) if metric == "accuracy" else (1, 1.0)
    return TABLE_4[higher][place] / scale, TABLE_4[lower][place] / scale
