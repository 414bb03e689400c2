"""Definitions of the studies: every cell can run, and every claim agrees with its paper."""

import pytest

from datamodules.errors import InputError
from datamodules.face_boxes import BoxesDataModule
from datamodules.transforms import TRANSFORMS as KNOWN_TRANSFORMS
from lightning_modules.config import Options, RunConfig, data_module
from sweeps.spaces import TRANSFORMS
from sweeps.studies import STUDIES, WITHOUT_PROTOCOL, build_study
from sweeps.studies.schema import PROTOCOLS, SCALES, Cell, Claim, Entry, Study, Table, cell_config

ALL = [
    build_study(name, scale, protocol)
    for name in STUDIES
    for scale in SCALES
    for protocol in PROTOCOLS
    if name not in WITHOUT_PROTOCOL or protocol == "honest"
]


def _kind(cell: Cell) -> str:
    """Return what must be the same of two cells so that checking one of them is enough: all but figures and lists."""
    options = {
        name: type(value) if isinstance(value, int | float | list) else value for name, value in cell.options.items()
    }
    return str((cell.recipe, cell.chosen, sorted(options.items(), key=str)))


@pytest.mark.parametrize("study", ALL, ids=lambda study: f"{study.name}-{len(study.cells)}")
def test_every_cell_is_made_of_options_that_there_are(study: Study) -> None:
    for cell in study.cells:
        assert set(cell.options.get("data.transforms") or []) <= set(KNOWN_TRANSFORMS)
    for cell in {_kind(cell): cell for cell in study.cells}.values():
        config = cell_config(cell, Options(), ["rotation", "zoom"])  # refuses options that there are not
        if cell.kind == "detector":
            BoxesDataModule(**config.data)
            continue
        data = data_module(config)  # refuses options that do not go together
        if cell.chosen:
            assert config.data["transforms"] == ["rotation", "zoom"]
        if study.name != "leakage":
            protocol = cell.options["data.protocol"]
            assert data.plan.protocol == protocol


@pytest.mark.parametrize("study", ALL, ids=lambda study: f"{study.name}-{len(study.cells)}")
def test_published_numbers_point_the_way_of_their_claim(study: Study) -> None:
    assert study.claims
    for claim in study.claims:
        assert claim.published is None or claim.published[0] > claim.published[1], claim.text


def test_balanced_augmentation_prints_the_tables_of_the_paper() -> None:
    study = build_study("balanced-augmentation", "paper", "honest")
    tables = {table.title: table for table in study.tables}
    focal = tables["Single transforms, focal"]
    assert focal.columns[4:] == ("EfficientNet-B0, accuracy", "EfficientNet-B0, macro F1")
    row = [entry.published for entry in focal.rows["crop"] if entry]
    assert row == pytest.approx([0.5536, 0.208, 0.5722, 0.280, 0.5835, 0.287])
    entropy = tables["Single transforms, cross-entropy"].rows["none"]
    assert [entry.published for entry in entropy if entry] == pytest.approx(
        [0.5436, 0.189, 0.5682, 0.257, 0.5786, 0.261]
    )
    assert sum(cell.stage == 0 for cell in study.cells) == 2 * 3 * (len(TRANSFORMS) + 2)
    assert {cell.folds for cell in study.cells} == {5}
    final = study.cell("over-sampling, chosen five")
    config = cell_config(final, Options(), list(TRANSFORMS[:5]))
    assert (config.data["n_min"], config.data["size"], config.data["batch_size"]) == (1500, 224, 128)
    assert (config.data["once"], config.data["transform_where"]) == (True, "copies")
    assert (config.model["learning_rate"], config.model["optimizer"]) == (1e-4, "adam")
    assert (config.trainer["max_epochs"], config.run["patience"]) == (300, 10)


def test_options_that_come_last_win() -> None:
    cell = Cell(name="a", recipe="quick", options={"data.size": 32, "model.loss": "Focal", "model.loss.gamma": 1.0})
    given = Options.read(["--data.size", "40", "--data.read.part=0.5", "--seed", "3"])
    config = cell_config(cell, given)
    assert config.data["size"] == 40
    assert config.get("model.loss.gamma") == 1.0
    assert config.seed_everything == 3
    assert data_module(config).read_options.part == 0.5


def test_mistakes_are_named() -> None:
    cell = Cell(name="a", recipe="quick")
    with pytest.raises(InputError, match="got repeated \\['a'\\]"):
        Study(name="s", about="", source="", cells=(cell, cell), tables=(), claims=())
    with pytest.raises(InputError, match="unknown \\['b'\\]"):
        Study(name="s", about="", source="", cells=(cell,), tables=(), claims=(Claim("", ("b", "x"), ("a", "x")),))
    table = Table("odd", ("one", "two"), {"row": (Entry("a", "accuracy"),)})
    with pytest.raises(InputError, match="one entry a column, got \\['odd'\\]"):
        Study(name="s", about="", source="", cells=(cell,), tables=(table,), claims=())
    with pytest.raises(InputError, match="did you mean leakage"):
        build_study("leackage", "tiny", "honest")
    with pytest.raises(InputError, match="leakage compares protocols"):
        build_study("leakage", "tiny", "paper")
    with pytest.raises(InputError, match="needs the transforms that an earlier stage chooses"):
        cell_config(Cell(name="a", recipe="quick", chosen=True), Options())
    with pytest.raises(InputError, match="an option begins with --"):
        RunConfig.resolve(["--recipe", "quick", "size"])
