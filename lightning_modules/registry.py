"""The MLflow model registry: a model that takes images and answers with labels, stored as ONNX and code, no pickle."""

import base64
import binascii
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient, pyfunc
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType

from datamodules.errors import InputError
from datamodules.unlabelled import Photograph, from_bytes
from lightning_modules.export import export_onnx
from lightning_modules.predictor import Predictor, find_model_run, load_trained, member_runs
from results.bias.groups import group_columns
from results.bias.report import BiasOptions, bias_of_runs, group_table, verdicts
from results.reports.tables import as_markdown
from results.tracking.runs import load_table, run_checkpoint
from results.tracking.store import open_client

IMAGES_VARIABLE = "EMOTION_SERVED_IMAGES"
"""Folder whose images a served model may read by path; without it, only images in the request are answered."""

_CARD_RESAMPLES = 999  # of intervals and permutations in the card: p-values to three digits


def register(run: str, name: str, *, alias: str | None = None, directory: str = "mlruns") -> ModelVersion:
    """Put a model into the MLflow model registry as a new version of ``name``.

    The model's column ``image`` takes the bytes of an image file, or their base64 text; it returns label, confidence,
    probabilities, the box of the face, and a note. It is stored as ONNX files and code of this package: loading it
    unpickles nothing. Of a cross-validation all folds are stored, and averaged.

    Args:
        run: Id of the run, the beginning of it, its name or latest.
        name: Name in the registry.
        alias: An alias of this version, such as champion.
        directory: Folder of the runs.

    Returns:
        MLflow's model version.

    Raises:
        InputError: There is no such run, or the run has no model; or its folds have decisions of their own alone.
    """
    run_id = find_model_run(run)
    client = open_client(directory)
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, str] = {}
        classes: list[str] = []
        for number, member in enumerate(member_runs(run_id)):
            trained = load_trained(run_checkpoint(member))
            file = Path(folder) / f"model_{number}.onnx"
            export_onnx(trained, file)
            files[file.stem] = str(file)
            classes = trained.classes
        decisions = Predictor.load(*files.values()).decision_lines  # as it will be served; the folds go together
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow asks for an example of an image, which would be somebody's
            pyfunc.save_model(
                f"{folder}/model",
                python_model=str(Path(__file__).with_name("served_model.py")),
                artifacts=files,
                signature=_signature(classes),
                pip_requirements=["emotion-pipeline"],
            )
        card = _card(client, run_id, classes, decisions, directory)
        Path(folder, "model", "README.md").write_text(card, encoding="utf-8")
        client.log_artifacts(run_id, f"{folder}/model", "model")
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    version = client.create_model_version(name, source=source, run_id=run_id)
    if alias is not None:
        client.set_registered_model_alias(name, alias, version.version)
    return version


def _signature(classes: Sequence[str]) -> ModelSignature:
    outputs: list[Any] = [ColSpec(DataType.string, "label"), ColSpec(DataType.double, "confidence", required=False)]
    outputs += [ColSpec(DataType.double, f"prob_{name}", required=False) for name in classes]
    outputs += [ColSpec(DataType.double, side, required=False) for side in ("x0", "y0", "x1", "y1")]
    outputs.append(ColSpec(DataType.string, "note"))
    return ModelSignature(Schema([ColSpec(AnyType(), "image")]), Schema(outputs))


def _card(client: MlflowClient, run_id: str, classes: Sequence[str], decisions: Sequence[str], directory: str) -> str:
    """Return the model card: classes, data, scores with intervals, decisions, gaps between subgroups, and limits."""
    run = client.get_run(run_id)
    lines = [f"# {run.info.run_name}", "", f"Run {run_id}. Classes: {', '.join(classes)}.", ""]
    for used in run.inputs.dataset_inputs if run.inputs else ():
        lines += [f"Trained and tested on {used.dataset.name} (digest {used.dataset.digest}).", ""]
    try:
        intervals = load_table(run_id, "intervals")
    except InputError:
        intervals = pd.DataFrame(columns=["metric", "class", "value", "low", "high"])
    lines += ["| score | class | value | 95 % interval |", "|---|---|---|---|"]
    lines += [
        f"| {row['metric']} | {row['class']} | {row['value']:.3f} | {row['low']:.3f} to {row['high']:.3f} |"
        for row in intervals.to_dict("records")
    ]
    if decisions:
        about = "Answers follow these steps, fitted on the val part, which the scores above leave out:"
        lines += ["", "## Decisions", "", about, "", *(f"- {line}" for line in decisions)]
    lines += ["", "## Gaps between groups of images", "", *_gaps(run_id, directory), "", "## Limits"]
    lines += [
        "",
        "Scores are of images that were neither trained nor selected on; they hold for images like those of the data "
        "set. A model that names emotions of faces says what annotators would call the expression, not what a person "
        "feels. `emotion report bias` shows each gap in detail, `emotion evaluate` measures other data sets.",
        "",
    ]
    return "\n".join(lines)


def _gaps(run_id: str, directory: str) -> list[str]:
    """Return lines of the model card: the scores of every subgroup, and the gaps between them."""
    columns = group_columns(load_table(run_id, "predictions", directory=directory))
    if not columns:
        return [
            "Not measured: the data have no column such as gender or age. Missing figures are not a sign of fairness."
        ]
    lines = []
    for column in columns:
        options = BiasOptions((column,), resamples=_CARD_RESAMPLES, permutations=_CARD_RESAMPLES)
        try:
            _, bias = bias_of_runs([run_id], options, directory=directory)
        except InputError as error:  # such as an identifier, with a value per image
            lines += [f"By {column}: not measured. {error}", ""]
            continue
        lines += [*verdicts(bias), "", *(as_markdown(group_table(groups)) for groups in bias.measured), ""]
    return lines[:-1]


class ServedModel(pyfunc.PythonModel):  # type: ignore[name-defined]
    """The model that MLflow loads and serves; see `register` for what it takes and returns."""

    def load_context(self, context: Any) -> None:  # noqa: ANN401 - MLflow's
        """Load the networks."""
        self._predictor = Predictor.load(*(path for _, path in sorted(context.artifacts.items())))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:  # noqa: ANN401
        """Return one row per image: label, confidence, probabilities, box of the face and note."""
        limit = self._predictor.pixel_limit
        images = [_photograph(value, number, limit) for number, value in enumerate(model_input["image"])]
        table = self._predictor.predict_photographs(images)
        return table.drop(columns=["path", "frame", "face"])


def _photograph(value: object, number: int, pixel_limit: int | None) -> Photograph:
    """Return the image in a cell: bytes of a file, their base64 text, or a path below $EMOTION_SERVED_IMAGES."""
    if isinstance(value, bytes | bytearray):
        return from_bytes(bytes(value), f"image {number}", pixel_limit)
    text = str(value)
    root = os.environ.get(IMAGES_VARIABLE)
    if root and len(text) < 1000:
        file = (Path(root) / text).resolve()
        if file.is_relative_to(Path(root).resolve()) and file.is_file():
            return from_bytes(file.read_bytes(), text, pixel_limit)
    try:
        return from_bytes(base64.b64decode(text, validate=True), f"image {number}", pixel_limit)
    except (binascii.Error, ValueError):
        return Photograph(f"image {number}", _not_an_image)


def _not_an_image() -> Any:  # noqa: ANN401 - never returns
    msg = f"the image must be the bytes of an image file or their base64 text (or a path, with {IMAGES_VARIABLE} set)"
    raise InputError(msg)
