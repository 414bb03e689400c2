"""The study of the face detector: before and after fine-tuning on pictures of another kind, and what it forgot."""

from dataclasses import dataclass

from sweeps.studies.plan import Cell, Claim, Entry, Picture, Scale, Study, Table, Value

NAME = "face-detector"
ABOUT = "a face detector before and after fine-tuning on pictures of another kind, and what it forgot of the first kind"
SOURCE = "a paper on Korean expressions (K-EmotionNet), 3,500 pictures of AI-Hub's Korean set"
TRAINED, TUNED = "original", "fine-tuned"  # the two runs of a seed
NEW, OLD = "new pictures", "first pictures"  # what both are measured on
SHOWN = {"map": "mAP@.5:.95", "map_50": "mAP@.5"}
PUBLISHED = {TRAINED: {"map": 0.8223, "map_50": 0.984}, TUNED: {"map": 0.8672, "map_50": 0.994}}
SHIFT = "dim=1,smallest=0.12,largest=0.35,distractors=4,occlusion=0.5"  # evening, farther away, more in the way

Options = dict[str, Value]


@dataclass(frozen=True)
class Setting:
    """What a scale trains: on the first pictures, then on the new ones, with the options of `emotion detector fit`."""

    first: Options
    new: Options
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


def cell_name(model: str, pictures: str) -> str:
    """Return the name of what is measured: a detector on pictures."""
    return f"{model}, {pictures}"


def build(
    scale: Scale, data: str | None = None, boxes: str | None = None, seeds: tuple[int, ...] | None = None
) -> Study:
    """Return the study, whose cells are the measurements; those on new pictures carry the options of their training.

    Args:
        scale: tiny, small or paper.
        data: the new pictures, in place of drawn ones.
        boxes: their table of boxes.
        seeds: in place of the scale's.
    """
    setting = SETTINGS[scale]
    new = dict(setting.new)
    if data is not None:
        new["data.source"] = data
    if boxes is not None:
        new["data.boxes"] = boxes
    # each cell carries the options of the training of its detector
    trained_by = {TRAINED: setting.first, TUNED: new}
    cells = tuple(
        Cell(name=cell_name(model, pictures), recipe="", options=options)
        for model, options in trained_by.items()
        for pictures in (NEW, OLD)
    )
    return Study(
        name=NAME,
        about=ABOUT,
        source=SOURCE,
        cells=cells,
        tables=(
            _table("On the new pictures, held out", NEW, published=True),
            _table("On the first pictures, held out: what fine-tuning forgot", OLD, published=False),
        ),
        claims=(
            *(
                Claim(
                    f"fine-tuning raises {SHOWN[metric]} on the new pictures",
                    (cell_name(TUNED, NEW), metric),
                    (cell_name(TRAINED, NEW), metric),
                    (PUBLISHED[TUNED][metric], PUBLISHED[TRAINED][metric]),
                )
                for metric in SHOWN
            ),
            Claim(
                "fine-tuning forgets: mAP@.5:.95 on the first pictures was higher before",
                (cell_name(TRAINED, OLD), "map"),
                (cell_name(TUNED, OLD), "map"),
            ),
        ),
        pictures=(
            Picture(
                "differences",
                "What fine-tuning changed",
                {cell.name: cell.name for cell in cells},
                tuple(SHOWN),
            ),
        ),
        seeds=setting.seeds if seeds is None else seeds,
        notes=(
            "Each seed trains a detector on the first pictures and fine-tunes it on the new ones. All seeds report on "
            "the same held-out pictures, of which neither training nor the choice of an epoch saw any.",
            "The paper fine-tuned YOLO-FaceV2, trained on faces of the West, on photographs of Koreans; here the first "
            "pictures are drawn by day and the new ones in the evening with smaller faces, more things in front of "
            "them and more posters and statues, unless --data names others.",
        ),
    )


def _table(title: str, pictures: str, *, published: bool) -> Table:
    rows: dict[str, tuple[Entry | None, ...]] = {
        model: tuple(
            Entry(cell_name(model, pictures), metric, PUBLISHED[model][metric] if published else None)
            for metric in SHOWN
        )
        for model in (TRAINED, TUNED)
    }
    return Table(title, tuple(SHOWN.values()), rows)
