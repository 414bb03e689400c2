"""Fine-tuning a face detector on another kind of images: what it gains there, and what it forgets."""

from dataclasses import dataclass

from sweeps.studies.schema import (
    OTHER,
    Cell,
    Claim,
    Entry,
    FigureSpec,
    Metric,
    Protocol,
    Scale,
    SeedChanges,
    Study,
    Table,
    Value,
)

TRAINED, TUNED = "original", "fine-tuned"  # the two detectors of a seed
NEW, OLD = "new images", "first images"  # the two kinds of test images
SHOWN: dict[Metric, str] = {"map": "mAP@.5:.95", "map_50": "mAP@.5"}
PUBLISHED = {TRAINED: {"map": 0.8223, "map_50": 0.984}, TUNED: {"map": 0.8672, "map_50": 0.994}}
SHIFT = "dim=1,smallest=0.12,largest=0.35,distractors=4,occlusion=0.5"  # darker, farther away, more occlusion
OWN_IMAGES = {TRAINED: OLD, TUNED: NEW}
COMMON: dict[str, Value] = {"run.experiment": "emotion", "run.resume": "auto"}


@dataclass(frozen=True)
class Setting:
    """Options of a scale: of the training on the first images, and of the fine-tuning on the new ones."""

    first: dict[str, Value]
    new: dict[str, Value]
    seeds: tuple[int, ...]


SETTINGS: dict[Scale, Setting] = {
    "tiny": Setting(
        first={
            "data.source": "scenes:images=150,size=256,smallest=0.3",
            "data.size": 160,
            "data.inner_fraction": 0.15,
            "run.epochs": 5,
        },
        new={
            "data.size": 160,
            "data.source": "scenes:images=120,size=256,seed=1," + SHIFT.replace("smallest=0.12", "smallest=0.2"),
            "data.outer_fraction": 0.35,
            "data.inner_fraction": 0.15,
            "run.epochs": 4,
            "model.learning_rate": 0.0005,
        },
        seeds=(0, 1, 2),
    ),
    "small": Setting(
        first={"data.source": "scenes:images=400,size=320", "data.size": 192, "run.epochs": 12},
        new={
            "data.source": f"scenes:images=400,size=320,seed=1,{SHIFT}",
            "data.size": 192,
            "data.outer_fraction": 0.3,
            "run.epochs": 8,
            "model.learning_rate": 0.0005,
        },
        seeds=(0, 1, 2),
    ),
    "paper": Setting(
        first={
            "data.source": "scenes:images=12880,size=640",
            "data.size": 640,
            "data.batch_size": 16,
            "run.epochs": 30,
        },
        new={
            "data.source": f"scenes:images=3500,size=640,seed=1,{SHIFT}",
            "data.size": 640,
            "data.batch_size": 16,
            "data.outer_fraction": 0.1,
            "data.inner_fraction": 0.1111,
            "model.learning_rate": 0.0005,
            "run.epochs": 30,
        },
        seeds=(0, 1, 2),
    ),
}


def build(scale: Scale, protocol: Protocol) -> Study:
    """Return the study; its protocol is honest at any time. The user's images take the place of the new ones."""
    del protocol
    setting = SETTINGS[scale]
    return Study(
        name="face-detector",
        about="a face detector before and after fine-tuning on images of another kind, and what it forgot of the "
        "first kind",
        source="a paper on Korean expressions (K-EmotionNet), 3,500 images of AI-Hub's Korean set",
        cells=(
            Cell(
                name=TRAINED,
                recipe=None,
                options=COMMON | setting.first,
                task="detector",
                fixed=("data.source", "data.boxes"),
                test_on=TUNED,
            ),
            Cell(
                name=TUNED,
                recipe=None,
                options=COMMON | setting.new | {"model.weights": "none"},
                task="detector",
                stage=1,
                start_from=TRAINED,
                test_on=TRAINED,
            ),
        ),
        tables=(
            _table("On the new images, held out", NEW, published=True),
            _table("On the first images, held out: what fine-tuning forgot", OLD, published=False),
        ),
        claims=(
            *(
                Claim(
                    f"fine-tuning raises {shown} on the new images",
                    (TUNED, metric_on(TUNED, NEW, metric)),
                    (TRAINED, metric_on(TRAINED, NEW, metric)),
                    (PUBLISHED[TUNED][metric], PUBLISHED[TRAINED][metric]),
                )
                for metric, shown in SHOWN.items()
            ),
            Claim(
                "fine-tuning forgets: mAP@.5:.95 on the first images was higher before",
                (TRAINED, metric_on(TRAINED, OLD, "map")),
                (TUNED, metric_on(TUNED, OLD, "map")),
            ),
        ),
        figures=(FigureSpec("differences", "What fine-tuning changed", {n: n for n in OWN_IMAGES}, tuple(SHOWN)),),
        seeds=setting.seeds,
        seed_changes=(
            SeedChanges(
                "Each seed, the same images before and after",
                TRAINED,
                TUNED,
                {images: (metric_on(TRAINED, images, ""), metric_on(TUNED, images, "")) for images in (NEW, OLD)},
                SHOWN,
            ),
        ),
        whole=True,
        notes=(
            "Each seed trains a detector on the first images and fine-tunes it on the new ones. All seeds report on "
            "the same held-out images, which were not used for training or for the selection of an epoch.",
            "The paper fine-tuned YOLO-FaceV2, trained on Western faces, on photographs of Koreans. Here the first "
            "images are drawn in daylight, and the new ones in the evening with smaller and more often occluded faces "
            "and more posters and statues, unless --data gives other images.",
        ),
    )


def metric_on(cell: str, images: str, metric: Metric) -> Metric:
    """Return the name under which a cell's run has a metric on the test images of one kind."""
    return metric if OWN_IMAGES[cell] == images else f"{OTHER}{metric}"


def _table(title: str, images: str, *, published: bool) -> Table:
    rows: dict[str, tuple[Entry | None, ...]] = {
        cell: tuple(
            Entry(cell, metric_on(cell, images, metric), PUBLISHED[cell][metric] if published else None)
            for metric in SHOWN
        )
        for cell in OWN_IMAGES
    }
    return Table(title, tuple(SHOWN.values()), rows)
