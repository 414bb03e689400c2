"""From photograph to answer: `Predictor`, for a run, a cross-validation, an ensemble, a checkpoint or an ONNX file."""

import json
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.errors import InputError, invalid
from datamodules.files.image_files import LeftOut, collect_left_out
from datamodules.files.images import DECODE_POLICY, Fit, content_hash, decode_bytes, fit_to_square, grey_plane
from datamodules.files.paths import on_disk, replacing
from datamodules.processes import cores
from datamodules.read_options import ReadOptions
from datamodules.readers.archives import is_archive, unpack
from datamodules.readers.face_crops import FaceCrops, list_crops, same_faces
from datamodules.readers.fer2013 import pixel_images
from datamodules.readers.shards import shard_images
from datamodules.splits.protocol import SeenImages
from datamodules.unlabelled import Photograph, find_images, from_bytes, photographs
from lightning_modules.decisions import DECISIONS_KEY, JOINT_KEY, UNSURE, Decided, Decisions, JointDecisions
from results.tracking.runs import children, find_trained_run, load_table, run_checkpoint, run_row
from results.tracking.store import FORMAT, open_client, tracking_uri, version_0_1_message

if TYPE_CHECKING:  # neither is needed for an ONNX file
    from lightning_modules.classifier import EmotionClassifier

Engine = Literal["auto", "torch", "onnxruntime"]
SMALL_FACE = 32  # pixels; a note is written of smaller ones
DECODED_SMALLER = "decoded at 1/"  # begins the note of an image above the pixel limit
COLUMNS = ("path", "frame", "face", "x0", "y0", "x1", "y1", "label", "confidence")


@dataclass(frozen=True)
class Trained:
    """A trained model, how its images must be prepared (``faces`` if they must be face crops), and its decisions."""

    model: "EmotionClassifier"
    classes: list[str]
    size: int
    fit: Fit
    faces: FaceCrops | None = None
    seen: SeenImages | None = None  # None: it is not recorded
    pixel_limit: int | None = None  # of image files, None: the default
    decisions: Decisions | None = None
    joint: JointDecisions | None = None  # those of the mean of several networks, of which this is one


def load_trained(checkpoint: Path) -> Trained:
    """Load the model of a checkpoint.

    Raises:
        InputError: not a file, damaged, not ours, or one that would run code when opened.
    """
    import torch

    from lightning_modules.classifier import EmotionClassifier

    model = EmotionClassifier.from_checkpoint(checkpoint)
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if content.get("format") != FORMAT:
        raise InputError(version_0_1_message(f"--checkpoint: {checkpoint}"))
    data = content.get("EmotionDataModule", {})
    if not {"size", "fit"} <= set(data):
        msg = f"--checkpoint: {checkpoint} does not say how its images were prepared; use one that `emotion fit` wrote"
        raise InputError(msg)
    faces = FaceCrops(**data["faces"]) if data.get("faces") else None
    seen = SeenImages.read(data.get("seen"))
    limit, classes, where = data.get("pixel_limit"), list(model.classes), f"--checkpoint: {checkpoint}"
    decisions = Decisions.read(content.get(DECISIONS_KEY), classes, where)
    joint = JointDecisions.read(content.get(JOINT_KEY), classes, where)
    return Trained(model.eval(), classes, int(data["size"]), data["fit"], faces, seen, limit, decisions, joint)


def header(predictor: "Predictor") -> str:
    """Return what answers, in two lines: names, backbone of a single network, and classes."""
    backbones = {member.backbone for member in predictor.members}
    what = f"backbone {', '.join(sorted(backbones))}"
    what += f", mean of {len(predictor.members)} networks" if len(predictor.members) > 1 else ""
    what += f", {predictor.faces}" if predictor.faces else ""
    lines = [f"{predictor.name}, {what}", f"classes: {', '.join(predictor.classes)}"]
    return "\n".join([*lines, *(f"decisions: {line}" for line in predictor.decision_lines)])


class Member(Protocol):
    """One network of a predictor.

    Attributes:
        classes: Names of the classes, in the order of its probabilities.
        size: Side of its square input in pixels.
        fit: How an image that is not square is made so.
        faces: How the faces of its training images were cut out; None for whole images.
        fold: The fold and the seed of a run of a cross-validation, None for others.
        seen: The images that it was trained and selected on; None where that is not known.
        backbone: Name of its backbone.
        decisions: What turns its probabilities into an answer; None: the most probable class is the answer.
        joint: The same for the mean of several networks, of which it is one.
    """

    classes: list[str]
    size: int
    fit: Fit
    faces: FaceCrops | None
    fold: tuple[int, int] | None
    seen: SeenImages | None
    backbone: str
    decisions: Decisions | None
    joint: JointDecisions | None

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return probabilities (B, C), float32, of images uint8 (B, size, size, 3) RGB, before any decision."""


class TorchMember:
    """A network of a checkpoint, on a GPU where there is one."""

    def __init__(self, checkpoint: Path, fold: tuple[int, int] | None = None) -> None:
        from lightning_modules.backbones import best_device

        trained = load_trained(checkpoint)
        self.device = best_device()
        self.model = trained.model.to(self.device).eval()
        self.classes, self.size, self.fit, self.faces = trained.classes, trained.size, trained.fit, trained.faces
        self.fold, self.seen, self.pixel_limit = fold, trained.seen, trained.pixel_limit
        self.backbone = str(trained.model.plain["backbone"])
        self.decisions, self.joint = trained.decisions, trained.joint

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return raw probabilities (B, C), float32, of images uint8 (B, size, size, 3) RGB."""
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)  # (B, 3, S, S)
            probabilities: np.ndarray = self.model.probabilities(batch).cpu().numpy()
        return probabilities


class OnnxMember:
    """A network that `emotion export` wrote, run by onnxruntime.

    Raises:
        InputError: no such file, not an ONNX model, or not one of `emotion export` of this version.
    """

    fold: tuple[int, int] | None = None
    seen: SeenImages | None = None
    backbone = "ONNX"

    def __init__(self, path: Path) -> None:
        import onnxruntime

        if not path.is_file():
            raise invalid("RUN", "must be an ONNX file that exists", str(path))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its complaints about bad files are raised as well
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=_providers(onnxruntime))
        except Exception as error:  # onnxruntime has a dozen exceptions without a common parent
            msg = (
                f"RUN: {path} is not an ONNX model, or is damaged ({str(error).splitlines()[0][:200]}); export it again"
            )
            raise InputError(msg) from error
        about = self._session.get_modelmeta().custom_metadata_map
        if not {"classes", "size", "fit", "decode_policy"} <= set(about):
            msg = f"RUN: {path} was not written by `emotion export`: its metadata lacks classes, size or fit; export it"
            raise InputError(msg)
        if about["decode_policy"] != DECODE_POLICY:
            msg = (
                f"RUN: {path} was exported by another version, which decoded images in another way "
                f"({about['decode_policy']}, here {DECODE_POLICY}); run `emotion export` again"
            )
            raise InputError(msg)
        self.classes, self.size, self.fit = json.loads(about["classes"]), int(about["size"]), cast(Fit, about["fit"])
        self.faces = FaceCrops(**json.loads(about["faces"])) if about.get("faces") else None
        self.pixel_limit = int(about["pixel_limit"]) if about.get("pixel_limit") else None
        kept = {key: json.loads(about[key]) for key in (DECISIONS_KEY, JOINT_KEY) if about.get(key)}
        self.decisions = Decisions.read(kept.get(DECISIONS_KEY), self.classes, f"RUN: {path}")
        self.joint = JointDecisions.read(kept.get(JOINT_KEY), self.classes, f"RUN: {path}")

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return raw probabilities (B, C), float32, of images uint8 (B, size, size, 3) RGB."""
        pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        probabilities: np.ndarray = self._session.run(None, {"image": pixels})[0]
        return probabilities


def _providers(onnxruntime: Any) -> list[str]:  # noqa: ANN401 - the module
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    return [name for name in wanted if name in onnxruntime.get_available_providers()]


Squares = dict[tuple[int, Fit], np.ndarray]  # an image as each network takes it, by size and fit: uint8 (S, S, 3)


@dataclass
class Input:
    """One row of the answer, before its probabilities are known.

    Attributes:
        row: Columns that are known: path, frame, face, box, note.
        squares: The image or face as the networks take it; None where there is nothing to answer.
        content: Hash of its pixels before they were made square; "" where it is not needed.
        image: The image or face crop before it was made square, uint8 (H, W, 3); None where it is not needed.
        grey: The image at 48 x 48 in grey, by which near-duplicates are found; None where it is not needed.
    """

    row: dict[str, Any]
    squares: Squares | None = None
    content: str = ""
    image: np.ndarray | None = None
    grey: np.ndarray | None = None


@dataclass(frozen=True)
class Answers:
    """What the networks say of B images.

    Attributes:
        raw: Mean of the probabilities that the networks gave, (B, C).
        probabilities: Mean of their calibrated probabilities, (B, C); the same where no temperature was fitted.
        by_all: Images that all networks answered, bool (B,).
    """

    raw: np.ndarray
    probabilities: np.ndarray
    by_all: np.ndarray


class Predictor:
    """Answers for photographs: finds and cuts faces where the model needs them, and averages its networks.

    Each network is calibrated by its own temperature before the mean; what is decided from the mean was fitted for
    these networks together.

    Args:
        members: Networks of the same classes and the same way of cutting faces; their probabilities are averaged.
        name: What errors call it.
        faces: A face detector that replaces the recorded one: haar, yunet:FILE or FILE.onnx.

    Raises:
        InputError: Members of other classes or other face crops, or whose decisions were fitted for each alone; or a
            detector for a model of whole images.
    """

    def __init__(self, members: Sequence[Member], name: str = "the model", *, faces: str | None = None) -> None:
        first = members[0]
        for member in members[1:]:
            if member.classes != first.classes:
                msg = (
                    f"--run: networks of other classes cannot be averaged: {', '.join(first.classes)} and "
                    f"{', '.join(member.classes)}; name runs of the same classes"
                )
                raise InputError(msg)
            if not same_faces(member.faces, first.faces):
                msg = (
                    "--run: networks cannot be averaged whose images were prepared differently: "
                    f"{first.faces or 'whole images'} and {member.faces or 'whole images'}; "
                    "name runs of equally prepared images"
                )
                raise InputError(msg)
        self.members, self.name = list(members), name
        self.runs: list[str] = []  # ids of the runs among its sources
        self.left_out = LeftOut()  # files of its sources that are no images
        self.seen = 0  # images answered so far that a network was trained or selected on
        limits = [limit for member in members if (limit := getattr(member, "pixel_limit", None)) is not None]
        self.pixel_limit: int | None = max(limits, default=None)  # of image files, as in training; None: the default
        self.classes: list[str] = list(first.classes)
        self.faces = first.faces
        self.decisions = joint_decisions(self.members)
        self._folds: dict[str, set[tuple[int, int]]] = {}  # content of an image -> the members that did not see it
        if faces is not None and self.faces is None:
            msg = f"--faces: {name} was trained on whole images, so no faces are looked for; leave --faces out"
            raise InputError(msg)
        self._finder = self.requested_finder = faces
        self._local = threading.local()

    @classmethod
    def load(cls, *sources: str, engine: Engine = "auto", faces: str | None = None) -> "Predictor":
        """Load a predictor.

        Args:
            sources: Runs (id, its beginning, name or latest; of a cross-validation all folds are averaged),
                checkpoints (.ckpt), ONNX files (.onnx) or registered models (models:/NAME/VERSION or
                models:/NAME@ALIAS). Several are averaged.
            engine: ``torch`` for runs and checkpoints, ``onnxruntime`` for ONNX files and registered models;
                ``auto`` takes what fits.
            faces: A face detector that replaces the recorded one.

        Raises:
            InputError: There is no such model, it cannot be used, or the models do not go together.
        """
        if not sources:
            msg = "RUN: name at least one run, checkpoint or ONNX file"
            raise InputError(msg)
        members: list[Member] = []
        names, runs = [], []
        for source in sources:
            if _is_file(source):
                names.append(source)
                members += _members(source, engine)
            else:
                run_id = find_model_run(source)
                runs.append(run_id)
                names.append(f"{run_row(run_id)['name']} [{run_id[:8]}]")
                members += _members(run_id, engine)
        predictor = cls(members, " + ".join(names), faces=faces)
        predictor.runs = runs
        return predictor

    def load_out_of_fold(self, run: str) -> None:
        """Answer images of a cross-validation's own data by the networks that had them in their test part.

        Raises:
            InputError: The run is no cross-validation.
        """
        parent = find_model_run(run)
        folds = _folds_of(parent)
        if folds.empty:
            raise invalid("--out-of-fold", "needs the parent run of a cross-validation", run)
        for row in folds.itertuples():
            contents = load_table(str(row.run_id), "predictions")["content"]
            for content in contents:
                self._folds.setdefault(content, set()).add((int(row.fold), int(row.seed)))
        self.decisions = None  # those of the mean were fitted on images that single folds hold out

    def predict(self, *sources: str, **options: Any) -> pd.DataFrame:  # noqa: ANN401 - those of `stream`
        """Classify images and return the whole table; see `stream` for sources, options and columns."""
        rows = [row for batch in self.stream(*sources, **options) for row in batch]
        return pd.DataFrame(rows, columns=self.columns)

    def predict_photographs(self, images: Sequence[Photograph]) -> pd.DataFrame:
        """Classify images that are read already; one row each, of several faces the first.

        Args:
            images: The images.
        """
        self.require_detector()
        rows: list[dict[str, Any]] = []
        for inputs in self.prepared(iter(images), set(), total=len(images)):
            rows += self._answer([one for one in inputs if one.row["face"] in (None, 0)])
        return pd.DataFrame(rows, columns=self.columns)

    @property
    def decides(self) -> bool:
        """Whether anything follows the networks: a temperature of one of them, or what is decided from the mean."""
        return self.decisions is not None or any(member.decisions is not None for member in self.members)

    @property
    def decision_lines(self) -> list[str]:
        """What was fitted, one line per step."""
        lines = self.decisions.lines() if self.decisions else []
        if len(self.members) == 1:
            return lines
        own = [member.decisions.scaling if member.decisions else None for member in self.members]
        scaled = ", ".join("none" if scaling is None else f"{scaling.temperature:.3f}" for scaling in own)
        return [*([f"temperature of each network: {scaled}"] if any(own) else []), *lines]

    @property
    def columns(self) -> list[str]:
        """Columns of the table."""
        return [*COLUMNS, *(f"prob_{name}" for name in self.classes), "note"]

    def stream(
        self,
        *sources: str,
        every: float | None = None,
        batch_size: int = 64,
        workers: int | None = None,
        stdin: bytes | None = None,
        read: ReadOptions = ReadOptions(),  # noqa: B008 - frozen
    ) -> Iterator[list[dict[str, Any]]]:
        """Classify images and yield rows batch by batch, in the order of the sources; ``stdin`` comes first.

        Args:
            sources: Images, folders, globs, archives, tables with a path column, videos, or - for ``stdin``.
            every: Seconds between two frames of a video; default 1.
            batch_size: Images that go through a network at a time.
            workers: Threads that decode images and find faces; default one a core.
            stdin: Bytes of the image called -.
            read: How a table is read: the column of the paths.

        Yields:
            Rows with path, frame (of a video), face (0 is the largest one of an image), x0 y0 x1 y1 (its box in pixels
            of the image), label, confidence, prob_<class> (sum 1) and note. An image that cannot be read, or a
            photograph without a face where the model needs one, has a note, and no label.

        Raises:
            InputError: There are no images, a wrong option, or a detector that is missing or was changed.
        """
        if batch_size < 1:
            raise invalid("--batch-size", "must be at least 1", batch_size)
        if every is not None and not every > 0:
            raise invalid("--every", "must be above 0 seconds", every)
        paths, crops = self._expand(sources, read)
        items: Iterator[Photograph] = photographs(paths, every, self.pixel_limit)
        total = len(paths)
        if "-" in sources or not {path.resolve() for path in paths} <= crops:
            self.require_detector()
        if "-" in sources:
            items, total = chain([from_bytes(stdin or b"", pixel_limit=self.pixel_limit)], items), total + 1
        for inputs in self.prepared(items, crops, total=total, batch_size=batch_size, workers=workers):
            yield self._answer(inputs)

    def prepared(
        self,
        items: Iterator[Photograph],
        crops: set[Path],
        *,
        total: int | None = None,
        batch_size: int = 64,
        workers: int | None = None,
        contents: bool = False,
        images: bool = False,
    ) -> Iterator[list[Input]]:
        """Decode images and find faces in threads, and yield the inputs of the networks batch by batch, in order.

        Args:
            items: The images.
            crops: Files, resolved, that are face crops already.
            total: Number of images, for the progress bar.
            batch_size: Inputs in a batch, at least.
            workers: Threads; default one a core.
            contents: Also hash the pixels and make a small grey copy, by which images and near-duplicates are found.
            images: Also keep the images or face crops in their own size.
        """
        hashed = contents or bool(self._folds) or any(member.seen is not None for member in self.members)
        bar = tqdm(total=total, desc="classifying", unit="image", delay=1, disable=None)
        waiting: list[Input] = []
        with bar, ThreadPoolExecutor(workers or cores()) as pool:
            for inputs in _in_order(
                pool, lambda item: self._prepare(item, crops, hashed, contents, images), items, ahead=batch_size + 8
            ):
                waiting += inputs
                bar.update(inputs[0].row["frame"] is None)
                if len(waiting) >= batch_size:
                    yield waiting
                    waiting = []
            if waiting:
                yield waiting

    def require_detector(self) -> None:
        """Check that faces can be found in photographs, where the model needs that.

        Raises:
            InputError: The detector is not known, or its file is missing or was changed.
        """
        if self.faces is not None and self._finder is None:
            self._finder = self.faces.require_detector(self.name)

    def _expand(self, sources: Sequence[str], read: ReadOptions) -> tuple[list[Path], set[Path]]:
        """Return the files that the sources name, and those among them that are face crops already."""
        paths: list[Path] = []
        crops: set[Path] = set()
        for source in sources:
            if source == "-":
                continue
            place = on_disk(Path(source).expanduser())
            named = str(unpack(place.resolve())) if place.is_file() and is_archive(place) else source
            with collect_left_out() as left_out:
                files = (
                    shard_images(place) or pixel_images(on_disk(Path(named).expanduser())) or find_images(named, read)
                )
            self.left_out.listings |= left_out.listings
            paths += files
            if self.faces is not None:
                crops |= list_crops(named, files)  # resolved
        return paths, crops

    def _prepare(self, item: Photograph, crops: set[Path], hashed: bool, compared: bool, kept: bool) -> list[Input]:
        """Return the inputs of one image: the image, or its faces, largest first."""
        row = {"path": item.path, "frame": item.frame, "face": None, "label": "", "note": ""}
        try:
            decoded = item.open()
        except InputError as error:
            return [Input(row | {"note": f"error: {error}"})]
        image, reduced = decoded.image, decoded.reduced
        smaller = [f"{DECODED_SMALLER}{reduced} of its size"] if reduced > 1 else []
        row["note"] = "".join(smaller)
        if self.faces is None or (item.frame is None and on_disk(item.path).resolve() in crops):
            return [self._input(row, image, hashed, compared, kept)]
        faces = self._detector().find(image)
        if not faces:
            return [Input(row | {"note": "; ".join(["no face found", *smaller])})]
        inputs = []
        for number, (box, crop) in enumerate(faces):
            notes = [*smaller, *([f"{len(faces)} faces"] if len(faces) > 1 else [])]
            side = round(float(max(box[2] - box[0], box[3] - box[1])))
            notes += [f"small face ({side} pixels)"] if side < SMALL_FACE else []
            corners = dict(
                zip(("x0", "y0", "x1", "y1"), (round(float(value) * reduced, 1) for value in box), strict=True)
            )
            inputs.append(
                self._input(row | {"face": number, "note": "; ".join(notes)} | corners, crop, hashed, compared, kept)
            )
        return inputs

    def _input(self, row: dict[str, Any], image: np.ndarray, hashed: bool, compared: bool, kept: bool) -> Input:
        shapes = {(member.size, member.fit) for member in self.members}
        squares = {key: fit_to_square(image, *key).copy() for key in shapes}
        content = content_hash(image) if hashed and row["frame"] is None else ""  # a frame is no image of a data set
        return Input(row, squares, content, image if kept else None, grey_plane(image) if compared else None)

    def _detector(self) -> "_FaceCutter":
        """Return the detector of this thread; OpenCV's are not safe to share."""
        if not hasattr(self._local, "cutter"):
            assert self.faces is not None
            self._local.cutter = _FaceCutter(str(self._finder), self.faces)
        cutter: _FaceCutter = self._local.cutter
        return cutter

    def _answer(self, inputs: list[Input]) -> list[dict[str, Any]]:
        """Run the networks on a batch and return its rows."""
        there = [number for number, one in enumerate(inputs) if one.squares is not None]
        rows = [one.row for one in inputs]
        if not there:
            return rows
        if not self._folds:
            self.seen += self._count_seen([inputs[number].content for number in there if inputs[number].content])
        answers = self.answers([inputs[number] for number in there])
        decided = self.decide(answers.probabilities)
        for place, number in enumerate(there):
            values, best = answers.probabilities[place], int(decided.predicted[place])
            if not np.isfinite(values).all():
                rows[number]["note"] = "error: the network gave no number; its training may have diverged"
                continue
            rows[number] |= {"label": self.classes[best], "confidence": float(values[best])}
            rows[number] |= {f"prob_{name}": float(value) for name, value in zip(self.classes, values, strict=True)}
            notes = [rows[number]["note"]]
            if decided.unsure[place]:
                rows[number]["label"] = UNSURE
                notes.append(self._unsure(best, decided.candidates[place]))
            if answers.by_all[place] and self._folds:
                notes.append("not among the images of the run")
            rows[number]["note"] = "; ".join(filter(None, notes))
        return rows

    def _count_seen(self, contents: Sequence[str]) -> int:
        """Return how many images with these content hashes any network was trained or selected on."""
        records = [member.seen for member in self.members if member.seen is not None]
        found = [record.among(contents) for record in records] if contents else []
        return int(np.any(found, axis=0).sum()) if found else 0

    def _unsure(self, best: int, candidates: np.ndarray) -> str:
        """Return what is known of an image that is not answered."""
        among = [name for name, possible in zip(self.classes, candidates, strict=True) if possible]
        return f"one of {', '.join(among)}" if len(among) > 1 else f"most likely {self.classes[best]}"

    def decide(self, probabilities: np.ndarray) -> Decided:
        """Return the answers for calibrated probabilities (B, C)."""
        return (self.decisions or Decisions(tuple(self.classes))).decide(probabilities)

    def answers(self, inputs: Sequence[Input]) -> Answers:
        """Return what the networks say of inputs that have squares."""
        batches: dict[tuple[int, Fit], np.ndarray] = {}
        raw = np.empty((len(self.members), len(inputs), len(self.classes)), np.float64)
        for place, member in enumerate(self.members):
            key = (member.size, member.fit)
            if key not in batches:
                batches[key] = np.stack([one.squares[key] for one in inputs if one.squares is not None])
            raw[place] = member.probabilities(batches[key])
        chosen = np.ones((len(self.members), len(inputs)), bool)
        for column, one in enumerate(inputs if self._folds else ()):
            folds = self._folds.get(one.content, set())
            by_fold = np.array([member.fold in folds for member in self.members])
            chosen[:, column] = by_fold if by_fold.any() else True
        weights = chosen / chosen.sum(axis=0)
        calibrated = raw.copy()
        for place, member in enumerate(self.members):
            calibrated[place] = member.decisions.calibrated(raw[place]) if member.decisions else raw[place]
        means = [np.einsum("mb,mbc->bc", weights, values) for values in (raw, calibrated)]
        return Answers(means[0], means[1], np.all(chosen, axis=0))


def joint_decisions(members: Sequence[Member | Trained]) -> Decisions | None:
    """Return what is decided from the mean of networks: of one its own, of several what was fitted for these.

    Raises:
        InputError: More than a temperature was fitted for each of several networks alone.
    """
    if len(members) == 1:
        return members[0].decisions
    joint = members[0].joint
    if joint is not None and joint.members == len(members) and all(member.joint == joint for member in members):
        return joint.decisions
    if any(member.decisions is not None and member.decisions.alone for member in members):
        msg = (
            "--run: tau, thresholds and abstention were fitted for networks alone, and not for the mean of these "
            f"{len(members)}; fit them together with `emotion calibrate RUN... --ensemble`, or name one run"
        )
        raise InputError(msg)
    return None


class _FaceCutter:
    """Finds faces and cuts them as the training images were cut, through the same JPEG file."""

    def __init__(self, detector: str, faces: FaceCrops) -> None:
        from datamodules.faces.detectors import open_detector

        self._detector, self._options = open_detector(detector), faces.options()

    def find(self, image: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return box (4,) in pixels within the image and crop (size, size, 3) of each face, the largest first.

        Face 0 is the one that `emotion data prepare` would choose.
        """
        from datamodules.faces.boxes import areas, clip
        from datamodules.faces.crop import choose, cut, encode_crop, turn_of

        height, width = image.shape[:2]
        faces = self._detector.detect([image])[0].rounded()
        first = choose(faces, height, width, self._options.rule)
        if first is None:
            return []
        boxes = clip(faces.boxes, height, width)
        by_size = np.argsort(-areas(boxes), kind="stable").tolist()
        found = []
        for number in sorted(by_size, key=lambda number: number != first):
            box, options = faces.boxes[number], self._options
            turn = turn_of(self._detector, image, box, faces.landmarks[number]) if options.upright else 0.0
            crop = cut(image, box, options.size, margin=options.margin, border=options.border, turn=turn)
            found.append((boxes[number], decode_bytes(encode_crop(crop), "a face").image))
        return found


def _in_order(pool: ThreadPoolExecutor, function: Any, items: Iterator[Any], *, ahead: int) -> Iterator[Any]:  # noqa: ANN401 - a generic map
    """Yield the results of a function for each item, in order; at most `ahead` items are held at a time."""
    running = deque(pool.submit(function, item) for item in islice(items, ahead))
    while running:
        yield running.popleft().result()
        running.extend(pool.submit(function, item) for item in islice(items, 1))


def _is_file(source: str) -> bool:
    """Return whether a source is a checkpoint, an ONNX file or a registered model, and no run."""
    return source.endswith((".ckpt", ".onnx")) or source.startswith("models:/")


def _members(source: str, engine: Engine) -> list[Member]:
    """Return the networks of a file, a registered model, or a run, which is given by its id."""
    if source.endswith(".onnx") or source.startswith("models:/"):
        if engine == "torch":
            raise invalid("--engine", "must be onnxruntime for ONNX files and registered models", engine)
        files = _registered(source) if source.startswith("models:/") else [Path(source).expanduser()]
        return [OnnxMember(file) for file in files]
    if engine == "onnxruntime":
        msg = f"--engine: onnxruntime needs an ONNX file, got {source}; write one with `emotion export {source}`"
        raise InputError(msg)
    if source.endswith(".ckpt"):
        return [TorchMember(Path(source).expanduser())]
    folds = _folds_of(source)
    numbers = {str(row.run_id): (int(row.fold), int(row.seed)) for row in folds.itertuples()}
    return [TorchMember(run_checkpoint(run_id), numbers.get(run_id)) for run_id in member_runs(source)]


def member_runs(run_id: str) -> list[str]:
    """Return the runs whose networks answer for a run: all folds of a cross-validation, else the run itself.

    Raises:
        InputError: A fold has not finished.
    """
    folds = _folds_of(run_id)
    if folds.empty:
        return [run_id]
    unfinished = int((folds["status"] != "FINISHED").sum())
    if unfinished:
        msg = (
            f"--run: {unfinished} of the {len(folds)} folds of cross-validation {run_id} have not finished; finish it "
            f"with `emotion cross-validate ... --resume {run_id}`, or name one fold: {folds['run_id'].iloc[0]}"
        )
        raise InputError(msg)
    return [str(run_id) for run_id in folds["run_id"]]


def find_model_run(text: str) -> str:
    """Return the id of the run that a text means; `latest` as `find_trained_run`, of a cross-validation the whole.

    Raises:
        InputError: There is no such run.
    """
    run_id = find_trained_run(text)
    above = run_row(run_id).get("parent") if text == "latest" else None
    whole = isinstance(above, str) and above != "" and run_row(above).get("tags.kind") == "cross-validation"
    return str(above) if whole else run_id


def _folds_of(run_id: str) -> pd.DataFrame:
    """Return run_id, status, fold and seed of the runs below a cross-validation; empty for any other run."""
    if run_row(run_id).get("tags.kind") != "cross-validation":
        return pd.DataFrame(columns=["run_id", "status", "fold", "seed"])
    below = children(run_id)
    return below.assign(fold=below["tags.fold"], seed=below["params.seed_everything"])


def _registered(uri: str) -> list[Path]:
    """Return the ONNX files of a registered model, one per network.

    Raises:
        InputError: No such model, or it has no ONNX file.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    name, _, alias = uri.removeprefix("models:/").partition("@")
    name, _, version = name.partition("/")
    client = open_client(only_reading=True)
    try:
        if alias:
            version = str(client.get_model_version_by_alias(name, alias).version)
        source = client.get_model_version_download_uri(name, version)
        folder = Path(download_artifacts(artifact_uri=source, tracking_uri=tracking_uri()))
    except (MlflowException, OSError) as error:
        msg = f"RUN: no registered model {uri} ({str(error).splitlines()[0]}); `emotion ui`, page Models, lists them"
        raise InputError(msg) from error
    files = sorted(folder.rglob("*.onnx"))
    if not files:
        msg = f"RUN: registered model {uri} has no ONNX file; register a run with `emotion register RUN`"
        raise InputError(msg)
    return files


def write_predictions(table: pd.DataFrame, path: Path) -> None:
    """Write a table of predictions as .csv, .json, .jsonl or .parquet.

    Raises:
        InputError: The file cannot be written.
    """
    try:
        with replacing(path) as part:
            if path.suffix == ".parquet":
                table.to_parquet(part, index=False)
            elif path.suffix == ".csv":
                table.to_csv(part, index=False)
            else:
                table.to_json(part, orient="records", lines=path.suffix == ".jsonl", force_ascii=False)
    except OSError as error:
        msg = f"--output: cannot write {path}: {error.strerror or error}; choose a folder that exists and is writable"
        raise InputError(msg) from error
