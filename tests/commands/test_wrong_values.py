"""Wrong values for every command: each is one line that says what is wrong, and what it advises exists."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Words = list[str]
WHOLE = ("ten", "", "1.5", "nan", "inf", "5px", "1e3", "--3")  # no whole numbers
REAL = ("ten", "", "5px", "1,5", "--3")  # no numbers
TEXTS = ("../..", "nope", "ha ppy", "0123456789abcdef0123456789abcdef", "%", "'", "ñ")  # no run is called so


def each(before: Words, option: str, values: tuple[str, ...] | list[str], after: Words | None = None) -> list[Words]:
    """Return a command line for each value of an option."""
    return [[*before, f"{option}={value}", *(after or [])] for value in values]


def unknown(before: Words, *misspelt: str) -> list[Words]:
    """Return command lines with options that no command has, and with misspelt ones."""
    return [[*before, word] for word in ("--nonsense", "--nonsense=3", "-x", *misspelt)]


@pytest.fixture
def wrong(place: Path) -> dict[str, str]:
    """Paths by what is wrong with them, relative to the current folder."""
    from PIL import Image

    folder = place / "wrong"
    folder.mkdir()
    Image.new("RGB", (40, 40), (200, 100, 50)).save(folder / "whole.png")
    contents = {
        "empty.csv": b"",
        "header.csv": b"path,label\n",
        "other.csv": b"a,b\n1,2\n",
        "lost.csv": b"path,label\nnone.png,happy\nnone2.png,sad\n",
        "binary.csv": bytes(range(256)) * 4,
        "quote.csv": b'path,label\n"a.png,happy\nb.png,sad\n',
        "cut.png": (folder / "whole.png").read_bytes()[:50],
        "text.png": b"no image",
        "empty.png": b"",
        "text.parquet": b"no table",
        "list.yaml": b"- 1\n- 2\n",
        "torn.yaml": b"model: [",
        "binary.yaml": bytes(range(128, 256)),
        "empty.yaml": b"",
        "text.ckpt": b"no checkpoint",
        "empty.ckpt": b"",
        "text.onnx": b"no network",
        "text.zip": b"no archive",
        "text.h5": b"no table",
        "text": b"",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "nothing").mkdir()
    (folder / "images" / "happy").mkdir(parents=True)
    (folder / "images" / "sad").mkdir()
    shutil.copy(folder / "cut.png", folder / "images" / "happy" / "a.png")
    shutil.copy(folder / "text.png", folder / "images" / "sad" / "b.png")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling.csv").symlink_to("gone.csv")
    return {path.name: f"wrong/{path.name}" for path in folder.iterdir()} | {"gone": "wrong/gone"}


@dataclass
class Advice:
    """What exists: commands with the words below them, and the options of each."""

    options: dict[str, set[str]] = field(default_factory=dict)
    commands: set[str] = field(default_factory=set)
    recipes: set[str] = field(default_factory=set)

    def wrong_names(self, command: str, words: Words, message: str) -> list[str]:
        """Return the options, commands and recipes in a message that do not exist."""
        typed = {word.partition("=")[0] for word in words}
        own = self.options[command] | self.options.get(" ".join(words[:2]), set())
        if words[:2] == ["detector", "test"]:  # its help points to that of `fit`
            own |= self.options["detector fit"]
        if "(in training " in message:
            own |= self.options["fit"] | self.options["data cache"]
        found = [f"command {name}" for name in self._commands(message) if name not in self.commands]
        for name in re.findall(r"(?<![\w/-])(--?[A-Za-z][\w.-]*)", message):
            option = name.rstrip(".")
            there = own.union(*(self.options.get(other, set()) for other in self._commands(message)))
            if option not in typed | there and not option.startswith("--model.loss."):
                found.append(f"option {option}")
        for name in re.findall(r"--recipe[= ]([a-z]\w*(?:-\w+)*)", message):
            if name not in self.recipes and name not in words:
                found.append(f"recipe {name}")
        return found

    def _commands(self, message: str) -> list[str]:
        found = []
        for name, below in re.findall(r"(?<![\w/])emotion (?!X:)([a-z][a-z-]+)(?: ([a-z]+))?", message):
            whole = f"{name} {below}".strip()
            found.append(whole if name in ("data", "runs", "report", "detector") and below else name)
        return found


TAKE_ALL = ("fit", "validate", "test", "cross-validate", "search", "study")  # every option of the model, the data ...
BELOW = {
    "data": ("describe", "check", "prepare", "cache", "layouts"),
    "runs": ("list", "export", "import", "push", "pull", "du", "delete"),
    "report": ("compare", "certify", "bias", "labels", "errors"),
    "detector": ("fit", "test", "export"),
}


@pytest.fixture(scope="module")
def _known() -> Advice:
    return Advice()


@pytest.fixture
def advice(emotion: Any, _known: Advice) -> Advice:
    """Read from the help of every command, once."""
    if _known.commands:
        return _known
    names = re.findall(r"^  ([a-z-]+)  ", emotion("--help").out, re.MULTILINE)
    every = set(re.findall(r"--[A-Za-z][\w.-]*", emotion("fit", "--help-all").out)) | {"--run", "-c", "--recipe"}
    every |= set(re.findall(r"--[a-z][\w-]*", emotion("data", "describe", "--help").out))  # as `fit --help` says
    for name in names:
        for words in [[name], *([name, below] for below in BELOW.get(name, ()))]:
            text = emotion(*words, "--help").out
            options = {option.rstrip(".") for option in re.findall(r"(?<![\w-])--?[A-Za-z][\w.-]*", text)}
            _known.options[" ".join(words)] = options | (every if name in TAKE_ALL else set())
            _known.commands.add(" ".join(words))
    recipes = re.search(r"a named recipe: (.+?) \(", emotion("fit", "--help").out)
    assert recipes is not None
    _known.recipes.update(recipes[1].split(", "))
    return _known


@pytest.fixture
def refused(request: pytest.FixtureRequest, emotion: Any, advice: Advice) -> Iterator[Callable[[list[Words]], None]]:
    """Run command lines that must all fail well, and report all that do not."""
    if not Path("mlruns").exists():  # `fitted` brings one
        request.getfixturevalue("store")

    def check(cases: list[Words], *, at_least: int = 40) -> None:
        problems = []
        runs, files, store = {run.info.run_id for run in emotion.runs()}, _files(), _changed("mlruns/mlflow.db")
        for words in cases:
            problem = _problem(emotion, advice, words)
            left = sorted(_files() - files)
            if _changed("mlruns/mlflow.db") != store:  # listing the runs takes longer than most commands
                left += sorted({run.info.run_id for run in emotion.runs()} - runs)
                runs, store = {run.info.run_id for run in emotion.runs()}, _changed("mlruns/mlflow.db")
            if left:
                problem = f"{problem} [left behind: {', '.join(left)}]"
                files = _files()
            if problem:
                problems.append(f"emotion {' '.join(map(repr, words))}\n    {problem}")
        assert not problems, f"{len(problems)} of {len(cases)}:\n" + "\n".join(problems)
        assert len({tuple(words) for words in cases}) >= at_least

    yield check
    assert "RUNNING" not in {run.info.status for run in emotion.runs()}


def _changed(path: str) -> tuple[int, int]:
    state = Path(path).stat()
    return state.st_mtime_ns, state.st_size


def _files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.parts[0] not in ("mlruns", "wrong")}


def _problem(emotion: Any, advice: Advice, words: Words) -> str:
    """Return what is wrong with how a command line failed, "" if nothing."""
    try:
        done = emotion(*words, status=None)
    except Exception as error:
        return f"traceback: {type(error).__name__}: {str(error)[:300]}"
    lines = done.err.splitlines()
    errors = [line for line in lines if re.match(r"(emotion [\w -]+: )?error: ", line)]
    if done.status not in (1, 2):
        return f"status {done.status}: {(done.out + done.err)[-300:]!r}"
    if len(errors) != 1 or lines[-1] != errors[0]:
        return f"{len(errors)} errors, or something after it: {done.err[-500:]!r}"
    message = errors[0].partition("error: ")[2]
    if "Traceback" in done.err or len(message) >= 600 or not message.strip():
        return f"{len(message)} characters: {done.err[-700:]!r}"
    name, equals, value = words[-1].partition("=")
    about = {name.lstrip("-"), name.rsplit(".", 1)[-1], value} - {""}
    early = " required" in message or "folder .dvc" in message  # found before the values are looked at
    if equals and not early and not any(part in message for part in about):
        return f"says nothing about {words[-1]}: {message}"
    found = advice.wrong_names(words[0], words, message)
    return f"names what does not exist, {', '.join(found)}: {message}" if found else ""


def data_sources(before: Words, wrong: dict[str, str], option: str = "--data") -> list[Words]:
    """Return command lines with sources of images that cannot be read."""
    names = "empty.csv header.csv other.csv lost.csv binary.csv quote.csv text.png text.parquet text.zip nothing loop"
    files = [wrong[name] for name in [*names.split(), "dangling.csv", "gone", "list.yaml", "text.ckpt"]]
    drawn = ["larges=3", "largest=ten", "largest=-1", "largest=0", "ratio=0", "ratio=nan", "size=0", "size=-5"]
    drawn += ["classes=happy", "classes=happy+joy", "ratio=inf", "subjects=-1"]
    others = ["foldr:wrong/images", "fer2013:wrong/text.zip", "aihub:wrong/nothing", "csv:wrong/images", "", "\x00"]
    return each(before, option, [*files, *(f"drawn:{text}" for text in drawn), *others])


class TestData:
    def test_describe(self, refused: Any, wrong: dict[str, str]) -> None:
        start = ["data", "describe"]
        small = [*start, "--data", "drawn:largest=8,ratio=2,size=32"]
        refused(
            [
                *data_sources(start, wrong),
                *unknown(start, "--dat=drawn", "--charts=x.png"),
                *each(small, "--sample", (*WHOLE, "-1")),
                *each(small, "--chart", ("wrong/gone/x.png", "wrong/nothing", "x.docx", "wrong/text/x.png", "")),
                *each(small, "--votes", ("most", "")),
                *each(small, "--alias", ("furious", "=angry", "furious=", "")),
                *each(small, "--agreement", ("4", "all", "-2")),
                *each(small, "--per-class", ("ten", "-1", "0")),
                *each(small, "--pattern", ("(", "no group", "(?P<x>.)")),
                *each([*start, "--data=wrong/lost.csv"], "--path-column", ("none",)),
                ["data"],
                ["data", "descripe"],
                [*small, "wrong/images"],
            ]
        )

    def test_check(self, refused: Any, wrong: dict[str, str]) -> None:
        start = ["data", "check"]
        small = [*start, "--data", "drawn:largest=8,ratio=2,size=32"]
        refused(
            [
                *data_sources(start, wrong),
                *unknown(start, "--near", "--fixx=x.csv"),
                *each(small, "--fix", ("x.txt", "wrong/gone/x.csv", "wrong/nothing", "", "wrong/text/x.csv")),
                *each(small, "--sheet", ("x.docx", "wrong/gone/x.png", "wrong/nothing", "")),
                *each(small, "--table", ("x.docx", "wrong/gone/x.csv", "wrong/nothing", "")),
            ]
        )

    def test_prepare(self, refused: Any, wrong: dict[str, str]) -> None:
        start = ["data", "prepare"]
        small = [*start, "--data", "drawn:largest=8,ratio=2,size=32"]
        faces = [*small, "--output=out", "--faces=haar"]
        refused(
            [
                *data_sources([*start, "--output=out.csv"], wrong),
                *unknown([*small, "--output=out.csv"], "--oputput=x.csv"),
                ["data", "prepare"],
                *each(small, "--output", ("x.txt", "wrong/gone/x.csv", "wrong/nothing", "", "wrong/text/x.csv")),
                *each([*small, "--output=out.csv"], "--margin", ("0.2", "nan")),
                *each(faces, "--margin", (*REAL, "-1", "nan", "inf", "1e9")),
                *each(faces, "--size", (*WHOLE, "0", "-3", "1000000")),
                *each(faces, "--rule", ("lagest", "")),
                *each(faces, "--border", ("black",)),
                *each(faces, "--no-face", ("error",)),
                *each(faces, "--workers", ("0", "-1", "two")),
                *each([*small, "--output=out"], "--faces", ("har", "", "yunet", "yunet:", "yunet:wrong/gone.onnx")),
                *each([*small, "--output=out"], "--faces", ("wrong/text.onnx", "yunet:wrong/text.onnx", "wrong/gone")),
            ]
        )

    def test_cache(self, refused: Any, wrong: dict[str, str]) -> None:
        start = ["data", "cache"]
        small = [*start, "--data", "drawn:largest=8,ratio=2,size=32"]
        refused(
            [
                *[words for words in data_sources(start, wrong) if words[-1] != "--data="],
                *unknown(start, "--clearr", "--budget=3"),
                *each(small, "--size", (*WHOLE, "0", "-1", "1000000")),
                *each(small, "--fit", ("corp", "")),
                *each(small, "--budget-gb", (*REAL, "-1", "nan")),
                *each(start, "--clear", ("pixel", "every", "")),
            ]
        )


TINY = (
    "--data drawn:largest=12,ratio=1.2,size=32 --model.backbone=test_resnet --model.weights=none --trainer.max_epochs=1"
)
QUIET = ["--data.size=32", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


def run_options(before: Words) -> list[Words]:
    """Return command lines with wrong values of the options of one run."""
    cases: list[Words] = []
    for option in ("--data.size", "--data.batch_size", "--trainer.max_epochs", "--seed"):
        cases += each(before, option, ("ten", "1.5", "nan", "-3"))
    cases += each(before, "--data.size", ("0", "1000000000"))
    cases += each(before, "--data.batch_size", ("0", "1"))
    for option in ("--model.learning_rate", "--model.weight_decay", "--model.dropout", "--model.mixup"):
        cases += each(before, option, ("ten", "nan", "inf", "-0.1"))
    for option in ("--data.inner_fraction", "--data.erasing", "--data.rehearsal", "--data.cache_budget_gb"):
        cases += each(before, option, ("nan", "-0.1", "ten"))
    for option in ("--run.patience", "--run.ema_decay", "--run.resamples", "--data.num_workers"):
        cases += each(before, option, ("-1", "nan", "ten"))
    for option in ("--model.layer_decay", "--model.sam_radius", "--model.shift_at_test", "--run.teacher_share"):
        cases += each(before, option, ("ten", "nan", "inf", "-0.1"))
    for option in ("--model.stem_stride", "--model.progressive_from", "--model.unmixed_epochs", "--run.ema_warmup"):
        cases += each(before, option, ("ten", "1.5", "-3", "1000000"))
    cases += each(before, "--run.teacher", ("nope", "[nope]", "[wrong/gone.ckpt]", "[wrong/text.ckpt]"))
    for option in ("--run.risk", "--run.coverage"):
        cases += each(before, option, ("0", "1", "nan", "ten"))
    cases += each(before, "--run.decisions", ("[temprature]", "tau,x", "0.5"))
    cases += each(before, "--model.loss", ("Foca", "focal", "3", "os.system", ""))
    cases += each([*before, "--model.loss=Focal"], "--model.loss.gamma", ("-1", "nan", "inf", "ten"))
    cases += each([*before, "--model.loss=LDAM"], "--model.loss.max_margin", ("-1", "nan", "2"))
    cases += each(before, "--model.backbone", ("resnet_18", "", "../x"))
    cases += each(before, "--model.weights", ("wrong/gone.pth", "wrong/text.ckpt", "wrong/nothing", "embeded"))
    cases += each(before, "--model.head", ("lienar", ""))
    cases += each(before, "--data.n_min", ("-5", "0", "1.5", "nan", "most", "1"))
    cases += each(before, "--data.transforms", ("[flp]", "flip,zom", "[1]"))
    cases += each(before, "--trainer.precision", ("8", "bf17"))
    cases += each(before, "--trainer.devices", ("0", "-2", "two"))
    cases += each(before, "--trainer.accelerator", ("cuda9", "mps"))
    cases += each(before, "--trainer.strategy", ("dpp", "ddp_spawn"))
    cases += each(before, "--run.start_from", ("nope", "wrong/text.ckpt", "wrong/gone.ckpt", "wrong/nothing"))
    cases += each(before, "--ckpt_path", ("wrong/gone.ckpt", "wrong/text.ckpt", "wrong/empty.ckpt", "wrong/nothing"))
    cases += each(before, "--recipe", ("balnced", "", "../quick", "quick.yaml"))
    cases += each(before, "--config", [f"wrong/{name}" for name in ("gone", "list.yaml", "torn.yaml", "binary.yaml")])
    cases += each(before, "--config", [f"wrong/{name}" for name in ("nothing", "loop", "text.png", "binary.csv")])
    cases += [[*before, *words] for words in (["--data.train_on", "sex=none"], ["extra"], ["--data.size"], ["--"])]
    cases += each(before, "--data.balance_by", ("nocolumn", "age+"))
    cases += each(before, "--data.stratify_by", ("nocolumn", "agee"))
    cases += each(before, "--resume", ("nope", ""))
    cases += unknown(before, "--data.siz=3", "--model.loss.gama=1", "--modle.dropout=0.1", "--trainer.max_epoch=2")
    return cases


class TestTraining:
    def test_fit(self, refused: Any, wrong: dict[str, str]) -> None:
        start = ["fit", *TINY.split(), *QUIET]
        refused(
            [
                *run_options(start)[::2],
                *run_options(start)[1::6],
                *data_sources(["fit"], wrong)[::3],
                *each(start, "--data.folds", ("1", "0", "-1", "nan", "100")),
                *each(start, "--data.fold", ("5", "-1", "1.5")),
                *each([*start, "--data.split=holdout"], "--data.holdout_fraction", ("0", "1", "nan", "-1", "inf")),
                *each(start, "--data.split", ("given", "fold", "")),
            ]
        )

    @pytest.mark.parametrize("command", ["validate", "test"])
    def test_evaluation(self, refused: Any, wrong: dict[str, str], command: str) -> None:
        start = [command, *TINY.split(), *QUIET]
        refused(
            [
                *each([command], "--run", TEXTS),
                *run_options([*start, "--ckpt_path=wrong/text.ckpt"])[:70:2],
                *unknown([command, "--ckpt_path=wrong/text.ckpt"], "--rn=3"),
                [command],
                [command, "--run"],
            ]
        )

    def test_cross_validate(self, refused: Any, wrong: dict[str, str]) -> None:
        start = ["cross-validate", *TINY.split(), *QUIET, "--folds=2"]
        refused(
            [
                *run_options(start)[::4],  # `fit` has the same parser and checks
                *each(start, "--folds", (*WHOLE, "1", "0", "-2", "1000")),
                *each(start, "--seeds", (*WHOLE, "-1")),
                [*start, "--seeds", "0", "0"],
                *each(start, "--workers", ("0", "-1", "two", "nan")),
                *each(start, "--resamples", ("99", "0", "-1", "ten", "nan")),
                *each(start, "--data.folds", ("3",)),
                *each(start, "--fold", ("1",)),
                *each(start, "--split", ("given", "holdout")),
                *each(start, "--run.evaluate", ("false", "maybe")),
            ]
        )

    def test_search(self, refused: Any, wrong: dict[str, str]) -> None:
        start = ["search", *TINY.split()[:3], *QUIET, "--space", "optimizer"]
        spaces = {
            "list.yaml": "- 1",
            "kind.yaml": "model.dropout: {chioce: [0.1]}",
            "low.yaml": "model.dropout: {real: [0.5, 0.1]}",
            "nan.yaml": "model.dropout: {real: [0.1, .nan]}",
            "empty-choice.yaml": "model.dropout: {choice: []}",
            "unknown.yaml": "model.dropuot: {real: [0.1, 0.5]}",
            "fixed.yaml": "data.fold: {choice: [0, 1]}",
            "log.yaml": "model.learning_rate: {real: [0, 1], log: true}",
            "text.yaml": "just words",
        }
        for name, text in spaces.items():
            Path(wrong["nothing"], name).write_text(text)
        made = [f"wrong/nothing/{name}" for name in spaces]
        bad = [wrong[name] for name in ("gone", "torn.yaml", "binary.yaml", "empty.yaml", "loop", "images", "text.png")]
        refused(
            [
                *[["search", *TINY.split(), "--space", space] for space in [*made, *bad, "optimiser", "", "loss,size"]],
                ["search"],
                ["search", "--space"],
                [*start, "optimizer"],
                *each(start, "--trials", (*WHOLE, "0", "-1")),
                *each(start, "--folds", (*WHOLE, "1", "0")),
                *each(start, "--workers", ("0", "two", "2")),
                *each(start, "--storage", ("mysql://a/b", "sqlite://", "x.db", "", "sqlite:///wrong/text/x.db")),
                *each(start, "--sampler", ("tpee", "")),
                *each(start, "--pruner", ("medain", "")),
                *each(start, "--objectives", ("3", "0")),
                *each(start, "--sampler-seed", ("-1", "ten", "1.5")),
                *each(start, "--write", ("wrong/gone/x.yaml", "wrong/nothing", "")),
                *each(start, "--warm-start", ("nope",)),
                *each(start, "--data.fold", ("1",)),
                *unknown(start, "--trial=3", "--model.dropuot=0.1"),
            ]
        )

    def test_study(self, refused: Any, wrong: dict[str, str]) -> None:
        names = ("leakag", "", "all", "nope", "LEAKAGE ", "data-imbalanc", "../leakage")
        start = ["study", "leakage"]
        refused(
            [
                ["study"],
                *[["study", name] for name in names],
                *each(start, "--scale", ("big", "", "tinny")),
                *each(start, "--scale", ("full", "paper", "small")),
                *each(start, "--protocol", ("paper", "honset", "")),
                *each(start, "--seeds", (*WHOLE, "-1")),
                [*start, "--seeds", "0", "0"],
                [*start, "--seeds"],
                *each(start, "--cells", ("nope", "", "0")),
                *each(start, "--workers", ("0", "-1", "two", "nan")),
                *each(start, "--storage", ("mysql://a/b", "sqlite://", "x.db", "sqlite:///wrong/text/x.db")),
                *each(start, "--data", [wrong[name] for name in ("gone", "nothing", "empty.csv", "text.png", "loop")]),
                *each(start, "--model.learning_rate", ("ten",)),
                *unknown(start, "--cell=x", "--data.siz=3"),
                *unknown(["study", "face-detector"], "--cell=x"),
                [*start, "--seed", "5"],  # which its cells would ignore
                ["cross-validate", "--seed", "3", "--seeds", "0", "1"],
                *each(["study", "face-detector"], "--cells", ("x",)),
                [*start, "more"],
            ]
        )

    def test_detector_fit(self, refused: Any, wrong: dict[str, str]) -> None:
        start = ["detector", "fit", "--data=scenes:images=4", "--model.backbone=resnet18", "--model.weights=none"]
        refused(
            [
                ["detector"],
                ["detector", "fitt"],
                *unknown(start, "--epoch=3", "--modl.width=3"),
                *each(start, "--epochs", ("0", "-1", "ten", "1.5", "nan")),
                *each(start, "--size", ("0", "-1", "ten", "33", "nan")),
                *each(start, "--run.patience", ("0", "ten")),
                *each(start, "--run.ema_decay", ("0", "1", "nan", "ten")),
                *each(start, "--run.clip", ("nan", "-1", "ten")),
                *each(start, "--run.resamples", ("99", "-1")),
                *each(start, "--model.learning_rate", ("0", "nan", "inf", "ten", "-1")),
                *each(start, "--model.nwd", ("-1", "2", "nan")),
                *each(start, "--model.width", ("0", "ten")),
                *each(start, "--model.backbone", ("resnet81", "")),
                *each(start, "--data.inner_fraction", ("0", "nan", "1")),
                *each(start, "--from", ("nope", "wrong/text.ckpt", "wrong/gone.ckpt", "wrong/nothing")),
                *each([*start, "--data=wrong/images"], "--boxes", ["wrong/gone", "wrong/empty.csv", "wrong/other.csv"]),
                *each(start, "--recipe", ("quick",)),
                *each(
                    ["detector", "fit"], "--data", [wrong[name] for name in ("gone", "nothing", "text.png", "images")]
                ),
                *each(["detector", "fit"], "--data", ["scenes:image=3", "scenes:images=nan"]),
            ]
        )

    def test_detector_test(self, refused: Any, wrong: dict[str, str]) -> None:
        start = ["detector", "test"]
        files = [
            wrong[name] for name in ("gone", "text.ckpt", "empty.ckpt", "nothing", "whole.png", "loop", "empty.csv")
        ]
        refused(
            [
                start,
                *[[*start, name] for name in [*TEXTS, *files, "latest", "wrong/gone.ckpt", ""]],
                [*start, "--all"],
                *unknown([*start, "wrong/text.ckpt"], "--al", "--data.sise=3"),
            ],
            at_least=20,
        )

    def test_detector_export(self, refused: Any, wrong: dict[str, str]) -> None:
        start = ["detector", "export"]
        files = [
            wrong[name] for name in ("gone", "text.ckpt", "empty.ckpt", "nothing", "whole.png", "loop", "empty.csv")
        ]
        refused(
            [
                start,
                *[[*start, name] for name in [*TEXTS, *files, "latest", "wrong/gone.ckpt", ""]],
                [*start, "a", "b"],
                *unknown([*start, "wrong/text.ckpt"], "--fix", "--outptu=x"),
            ],
            at_least=20,
        )


class TestModels:
    def test_predict(self, fitted: str, emotion: Any, refused: Any, wrong: dict[str, str]) -> None:
        start = ["predict", f"--run={fitted}"]
        whole = [*start, f"--data={wrong['whole.png']}"]
        sources = "empty.csv header.csv other.csv binary.csv text.parquet nothing loop gone dangling.csv"
        checkpoints = [wrong[name] for name in ("gone", "text.ckpt", "empty.ckpt", "nothing", "loop", "whole.png")]
        refused(
            [
                ["predict"],
                start,
                whole[:1] + whole[2:],
                [*whole, "--checkpoint=wrong/text.ckpt"],
                *each(["predict", whole[2]], "--run", TEXTS),
                *each(["predict", whole[2]], "--checkpoint", checkpoints),
                *each(start, "--data", [wrong[name] for name in sources.split()]),
                *each(start, "--data", ("", "\x00", "drawn")),
                *each(whole, "--output", ("x.txt", "wrong/gone/x.csv", "wrong/nothing", "", "wrong/text/x.csv")),
                *each(whole, "--batch-size", (*WHOLE, "0", "-1")),
                *each(whole, "--workers", (*WHOLE, "-1")),
                *unknown(whole, "--worker=1", "--batchsize=3"),
                [*whole, "extra"],
            ]
        )

    def test_explain(self, fitted: str, emotion: Any, refused: Any, wrong: dict[str, str]) -> None:
        start = ["explain", fitted]
        few = [*start, "--images=1", "--samples=60", "--not-kept", "--resamples=100", "--permutations=99"]
        refused(
            [
                ["explain"],
                *[["explain", name] for name in TEXTS],
                *each(start, "--method", ("gradcam", "", "lime2")),
                *each(few, "--target", ("happi", "", "happy,sad")),
                *each(few, "--images", ("0", "-1", "ten")),
                *each(few, "--by", ("nocolumn", "agee", "label", "")),
                *each(few, "--bins", ("age", "age=", "age=1,x", "nocolumn=0,1")),
                *each(few, "--answers", ("corect", "")),
                *each(few, "--rows", ("-1", "100000", "ten")),
                *each(few, "--paths", ("wrong/gone", "wrong/text.png", "wrong/nothing")),
                *each(few, "--fold", ("99", "-1")),
                *each(few, "--data", ("wrong/gone", "wrong/empty.csv")),
                *each(few, "--superpixels", ("0", "-1", "ten", "100000")),
                *each(few, "--compactness", ("nan", "-1", "inf", "0")),
                *each(few, "--samples", ("1", "0", "-5", "10")),
                *each(few, "--features", ("0", "-1")),
                *each(few, "--fill", ("gray", "")),
                *each(few, "--steps", ("0", "-1")),
                *each([*few, "--method=grad-cam"], "--layer", ("con", "")),
                *each(few, "--batch", ("0", "-1")),
                *each(few, "--seed", ("-1",)),
                *each(few, "--top", ("0", "-1")),
                *each(few, "--faces", ("haar", "yunet:wrong/gone", "yunet", "")),
                *each(few, "--compare", ("limes", "")),
                *each(few, "--seeds", ("-1",)),
                *each(few, "--resamples", ("0", "-1")),
                *each(few, "--permutations", ("0", "-1")),
                *each(few, "--out", ("wrong/text", "wrong/text/x")),
                *unknown(few, "--method-name=x"),
            ]
        )

    def test_calibrate(self, fitted: str, emotion: Any, refused: Any, wrong: dict[str, str]) -> None:
        files = [wrong[name] for name in ("gone", "text.ckpt", "nothing", "loop")]
        places = ("wrong/gone/x.csv", "wrong/nothing", "", "wrong/text/x.csv")
        refused(
            [
                ["calibrate"],
                *[["calibrate", name] for name in [*TEXTS, *files, ""]],
                *each(["calibrate", fitted], "--decisions", ("temprature", "", "0.5")),
                ["calibrate", fitted, "--decisions"],
                *each(["calibrate", fitted], "--risk", (*REAL, "nan", "0", "1", "-1", "0.001")),
                *each(["calibrate", fitted], "--coverage", (*REAL, "nan", "0", "1", "0.999")),
                ["calibrate", fitted, "--risk=0.1", "--coverage=0.9"],
                ["calibrate", fitted, "--ensemble"],
                ["calibrate", fitted, "--data=drawn"],
                ["calibrate", fitted, "--part=test"],
                ["calibrate", fitted, "--remove", "--risk=0.1"],
                *each(["calibrate", fitted], "--table", places),
                *unknown(["calibrate", fitted], "--risks=0.1", "--ensembl"),
            ]
        )

    def test_export(self, fitted: str, emotion: Any, refused: Any, wrong: dict[str, str]) -> None:
        places = ("wrong/gone/x.onnx", "wrong/nothing", "", "wrong/text/x.onnx")
        files = [wrong[name] for name in ("gone", "text.ckpt", "nothing", "loop")]
        refused(
            [
                ["export"],
                *[["export", name] for name in [*TEXTS, *files, ""]],
                *each(["export", fitted], "--output", places),
                *each(["export", fitted], "--format", ("onx", "", "torchscript")),
                *unknown(["export", fitted], "--outptu=x"),
                ["export", fitted, "extra"],
            ],
            at_least=20,
        )

    def test_soup(self, fitted: str, emotion: Any, refused: Any, wrong: dict[str, str]) -> None:
        files = [wrong[name] for name in ("gone", "text.ckpt", "nothing", "loop")]
        refused(
            [
                ["soup"],
                ["soup", fitted],
                *[["soup", fitted, name] for name in [*TEXTS, *files, ""]],
                *each(["soup", fitted, fitted], "--output", ("", "soup.onnx", "wrong/gone/soup.ckpt")),
                *unknown(["soup", fitted, fitted], "--outptu=x.ckpt"),
            ],
            at_least=15,
        )

    def test_register(self, fitted: str, emotion: Any, refused: Any, wrong: dict[str, str]) -> None:
        files = [wrong[name] for name in ("gone", "text.ckpt", "nothing", "loop")]
        refused(
            [
                ["register"],
                *[["register", name] for name in [*TEXTS, *files, ""]],
                *each(["register", fitted], "--name", ("", "a/b", "a:b")),
                *unknown(["register", fitted], "--nam=x"),
                ["register", fitted, "extra"],
            ],
            at_least=15,
        )

    def test_reproduce(self, fitted: str, emotion: Any, refused: Any, wrong: dict[str, str]) -> None:
        files = [wrong[name] for name in ("gone", "text.ckpt", "nothing", "loop")]
        refused(
            [
                ["reproduce"],
                *[["reproduce", name] for name in [*TEXTS, *files, ""]],
                *unknown(["reproduce", fitted], "--data=drawn", "--seed=3"),
                ["reproduce", fitted, "extra"],
            ],
            at_least=15,
        )


class TestRuns:
    def test_list(self, refused: Any, wrong: dict[str, str]) -> None:
        start = ["runs", "list"]
        paths = [wrong[name] for name in ("gone", "nothing", "loop", "text", "whole.png", "list.yaml", "empty.csv")]
        refused(
            [
                ["runs"],
                ["runs", "lst"],
                *[[*start, path] for path in [*paths, ""]],
                *each(start, "--directory", [wrong[name] for name in ("gone", "text", "loop")]),
                *unknown(start, "--directry=x", "--run=3"),
                [*start, "a", "b"],
            ],
            at_least=15,
        )

    def test_export(self, fitted: str, emotion: Any, refused: Any, wrong: dict[str, str]) -> None:
        start = ["runs", "export"]
        paths = [wrong[name] for name in ("loop", "text", "images", "whole.png")]
        refused(
            [
                start,
                *[[*start, path] for path in [*paths, "", "wrong/text/x"]],
                *each([*start, "out"], "--run", [*TEXTS, ""]),
                *each([*start, "out"], "--experiment", ("nope", "", "emotoin")),
                *each([*start, "out"], "--directory", [wrong[name] for name in ("gone", "text", "loop")]),
                *unknown([*start, "out"], "--model", "--skipp=x"),
                [*start, "a", "b"],
            ],
            at_least=20,
        )

    def test_import(self, refused: Any, wrong: dict[str, str]) -> None:
        start = ["runs", "import"]
        paths = [wrong[name] for name in ("gone", "nothing", "loop", "text", "images", "whole.png", "text.zip")]
        refused(
            [
                start,
                *[[*start, path] for path in [*paths, ""]],
                *unknown([*start, "wrong/nothing"], "--run=3", "--modls"),
                [*start, "a", "b"],
            ],
            at_least=13,
        )

    @pytest.mark.parametrize("command", ["push", "pull"])
    def test_share(self, refused: Any, command: str) -> None:
        start = ["runs", command]
        named = each(start, "--run", TEXTS) + each(start, "--experiment", ("nope", "")) if command == "push" else []
        refused(
            [
                start,
                *each(start, "--remote", ("nope", "", "wrong/text", "s3://")),
                *named,
                *unknown(start, "--remot=x"),
                [*start, "extra"],
            ],
            at_least=10,
        )

    def test_du(self, refused: Any, wrong: dict[str, str]) -> None:
        start = ["runs", "du"]
        refused(
            [
                *each(start, "--directory", [wrong[name] for name in ("gone", "text", "loop", "whole.png")]),
                *unknown(start, "--directry=x", "--run=3"),
                [*start, "extra"],
            ],
            at_least=10,
        )

    def test_delete(self, fitted: str, emotion: Any, refused: Any, wrong: dict[str, str]) -> None:
        start = ["runs", "delete"]
        refused(
            [
                start,
                *[[*start, name] for name in [*TEXTS, "", "wrong/gone", "wrong/nothing"]],
                [*start, fitted, "nope"],
                *each([*start, fitted], "--directory", [wrong[name] for name in ("gone", "text", "loop")]),
                *unknown([*start, fitted], "--keep", "--keep-file"),
            ],
            at_least=18,
        )

    @pytest.mark.parametrize("command", ["ui", "sync", "info"])
    def test_other(self, refused: Any, wrong: dict[str, str], command: str) -> None:
        ports = each([command], "--port", (*WHOLE, "-1", "0", "70000")) if command == "ui" else []
        refused(
            [
                *each([command], "--directory", [wrong[name] for name in ("text", "loop", "whole.png", "gone")]),
                *ports,
                *unknown([command], "--directry=x", "--prt=3"),
                [command, "extra"],
            ],
            at_least=9,
        )

    def test_dashboard(self, refused: Any, wrong: dict[str, str]) -> None:
        start = ["dashboard"]
        refused(
            [
                *each(start, "--port", (*WHOLE, "-1", "70000")),
                *each(start, "--storage", ("mysql://a/b", "sqlite://", "x.db", "sqlite:///wrong/gone/x.db", "")),
                *unknown(start, "--prt=3"),
                [*start, "extra"],
            ],
            at_least=18,
        )


class TestReports:
    def test_compare(self, fitted: str, emotion: Any, refused: Any, wrong: dict[str, str]) -> None:
        start = ["report", "compare"]
        twice = [*start, fitted, fitted]
        refused(
            [
                ["report"],
                ["report", "compar"],
                start,
                [*start, fitted],
                twice,
                *[[*start, fitted, name] for name in [*TEXTS, "", "wrong/gone"]],
                *each(twice, "--resamples", (*WHOLE, "0", "-1")),
                *each(twice, "--permutations", (*WHOLE, "0", "-1")),
                *each(twice, "--out", ("wrong/text", "wrong/text/x")),
                *each(twice, "--directory", [wrong[name] for name in ("gone", "text", "loop")]),
                *unknown(twice, "--pair"),
            ]
        )

    def test_certify(self, fitted: str, emotion: Any, refused: Any, wrong: dict[str, str]) -> None:
        start = ["report", "certify"]
        refused(
            [
                start,
                *[[*start, name] for name in [*TEXTS, "", "wrong/gone", "wrong/text.ckpt"]],
                *each([*start, fitted], "--out", ("wrong/text", "wrong/text/x")),
                *each([*start, fitted], "--directory", [wrong[name] for name in ("gone", "text", "loop")]),
                *unknown([*start, fitted], "--ot=x"),
                [*start, fitted, "extra"],
            ],
            at_least=20,
        )

    def test_bias(self, fitted: str, emotion: Any, refused: Any, wrong: dict[str, str]) -> None:
        start = ["report", "bias"]
        some = [*start, fitted, "--by=age", "--not-kept"]
        refused(
            [
                start,
                [*start, fitted],
                *[[*start, "--by=age", name] for name in [*TEXTS, "", "wrong/gone"]],
                *each([*start, fitted], "--by", ("agee", "", "label", "age+", "age+nope", "age+age")),
                *each(some, "--bins", ("age", "age=", "age=1,x", "nocolumn=0,1", "age=nan,1")),
                *each(some, "--top", (*WHOLE, "0", "-1")),
                *each(some, "--sets", ("nope", "")),
                *each(some, "--minimum", ("0", "-1", "ten", "nan")),
                *each(some, "--manifest", [wrong[name] for name in ("gone", "empty.csv", "nothing", "text.parquet")]),
                *each(some, "--resamples", ("0", "-1", "ten", "nan")),
                *each(some, "--permutations", ("0", "-1", "ten", "nan")),
                *each(some, "--seed", ("-1", "ten")),
                *each(some, "--out", ("wrong/text", "wrong/text/x")),
                *each(some, "--directory", [wrong[name] for name in ("gone", "text", "loop")]),
                *unknown(some, "--cros", "--colour=red"),
            ]
        )

    def test_labels_and_errors(self, cross_validated: str, emotion: Any, refused: Any, wrong: dict[str, str]) -> None:
        fold = emotion.children(cross_validated)[0].info.run_id
        for name in ("labels", "errors"):
            some = ["report", name, cross_validated]
            refused(
                [
                    ["report", name],
                    *[["report", name, other] for other in [*TEXTS, "", "wrong/gone"]],
                    *each([*some, "--out=page"], "--data", ("", "wrong/gone")),
                    [*some, "--embed-images"],
                    *each(some, "--out", ("wrong/text", "wrong/text/x")),
                    *each(some, "--directory", [wrong[name] for name in ("gone", "text", "loop")]),
                    *each(some, "--top" if name == "labels" else "--each", (*WHOLE, "0", "-1")),
                    *unknown(some, "--outt=x", "--embed"),
                ],
                at_least=30,
            )
        labels = ["report", "labels"]
        outputs = each([*labels, cross_validated], "--output", ("", "wrong/gone/x.csv", "wrong"))
        refused([[*labels, fold], *outputs], at_least=4)


SMALL = "drawn:largest=8,ratio=2,size=32"
MEANT = re.compile(r"did you mean ([^ ?]+)")


@pytest.mark.parametrize(
    ("words", "wrong_word"),
    [
        (["fitt", "--help"], "fitt"),
        (["data", "descripe", "--data", SMALL], "descripe"),
        (["data", "describe", "--data", SMALL, "--sampel", "5"], "--sampel"),
        (["data", "describe", "--data", "foldr:faces"], "foldr"),
        (["data", "describe", "--data", "drawn:larges=8,ratio=2,size=32"], "larges"),
        (["data", "describe", "--data", SMALL, "--votes", "majorty"], "majorty"),
        (["runs", "lst"], "lst"),
        (["report", "bias", "RUN", "--by", "agee", "--not-kept", "--resamples", "100", "--permutations", "99"], "agee"),
        (["fit", *TINY.split(), *QUIET, "--dry-run", "--model.dropuot", "0.1"], "--model.dropuot"),
        (["fit", *TINY.split(), *QUIET, "--dry-run", "--model.loss", "Foca"], "Foca"),
        (["fit", "--recipe", "quik", *TINY.split(), *QUIET, "--dry-run"], "quik"),
        (["study", "leakag", "--help"], "leakag"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_suggested_name_works(fitted: str, faces: Path, emotion: Any, words: Words, wrong_word: str) -> None:
    words = [fitted if word == "RUN" else word for word in words]
    done = emotion(*words, status=None)
    found = MEANT.search(done.err)
    if wrong_word == "leakag":  # its help does not look at the name
        found = MEANT.search(emotion("study", wrong_word, status=1).err)
    assert found is not None, done.err
    emotion(*(word.replace(wrong_word, found[1]) if wrong_word in word else word for word in words))


def test_the_command_that_an_error_names_works(faces: Path, emotion: Any) -> None:
    next(faces.rglob("*.png")).write_bytes(b"no image")
    words = ["fit", *QUIET, "--dry-run", *TINY.split()[2:], "--data.folds=2", "--data"]
    (error,) = emotion(*words, str(faces), status=1).errors
    found = re.search(r"emotion (data check .* --fix (\S+)), then --data (\S+)", error)
    assert found is not None
    assert found[2] == found[3]
    assert emotion(*found[1].split(), status=None).status == 1  # it reports what it found
    emotion(*words, found[3])


def test_an_existing_file_is_replaced_by_the_option_that_the_error_names(emotion: Any) -> None:
    words = ["data", "prepare", "--data", SMALL, "--output", "drawn.csv"]
    emotion(*words)
    (error,) = emotion(*words, status=1).errors
    option = re.search(r"or (--[a-z-]+)", error)
    assert option is not None
    emotion(*words, option[1])
