"""Write `expected.json`: what the commands compute and what does not depend on the processor.

Run it by hand from the root of the repository when a number is meant to change, and commit the file with the reason:

    python tests/commands/write_expected.py                  # everything
    python tests/commands/write_expected.py images reports   # these groups alone, the others stay

It calls commands only, in temporary folders. `test_expected.py` computes the same groups and compares. The groups:

* images: SHA-256 of the decoded pixels of 50 files of each source that draws its images.
* splits: which rows a run trains on, selects on and reports on, and its copies, for each of a few settings.
* cross-validation: the same of a cross-validation.
* reports: scores, intervals and p-values that the reports compute from tables made of integers.

Nothing in it comes from a trained network: of the runs that it makes only the split tables are read.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

HERE = Path(__file__).resolve().parent
FILE = HERE / "expected.json"
TOLERANCE = 1e-9
Run = Callable[..., object]  # runs a command; takes its words and `status`

SOURCES = {"drawn": "drawn:largest=10,ratio=2,size=48", "scenes": "scenes:images=50,size=160"}
SETTINGS = {
    "folds": "--data.folds 3 --data.fold 1 --data.n_min 0.95",
    "folds, n_min max": "--data.folds 3 --data.fold 2 --data.fold_seed 7 --data.n_min max",
    "holdout, stratify_by": "--data.split holdout --data.holdout_fraction 0.25 --data.stratify_by gender "
    "--data.n_min 40",
    "given, drop_twins": "--data.split given --data.leak drop_twins --data.n_min 0.9",
    "balance_by, inner_folds": "--data.folds 3 --data.balance_by gender --data.n_min 0.8 --data.inner_folds 3 "
    "--data.inner_fold 1",
    "doubled": "--data.folds 3 --data.n_min null --data.transform_where doubled --data.transforms [flip]",
    "paper, oversample_first": "--data.folds 3 --data.protocol paper --data.inner_fraction 0 "
    "--data.leak oversample_first --data.n_min 0.9",
}
ONE_BATCH = "--trainer.max_epochs 1 --trainer.limit_train_batches 1 --trainer.limit_val_batches 1".split()
CLASSES = ("angry", "happy", "sad", "neutral")


# --- images


def images(run: Run, source: str) -> dict[str, str]:
    """Return name -> SHA-256 of the shape and the decoded pixels of the first 50 files that a source draws."""
    with _own_cache() as cache:
        run("data", "prepare", "--data", SOURCES[source], "--output", f"{source}.csv")
        files = {
            path.relative_to(cache).as_posix().split("/", 2)[2]: path
            for path in cache.rglob("*")
            if path.suffix in (".png", ".jpg", ".jpeg")
        }
        return {name: _pixels(files[name]) for name in sorted(files)[:50]}


def _pixels(file: Path) -> str:
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()


@contextlib.contextmanager
def _own_cache() -> Iterator[Path]:
    """Give the commands an empty cache, so that only what they draw now is in it."""
    before = os.environ.get("EMOTION_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EMOTION_CACHE_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ["EMOTION_CACHE_DIR"]
            if before is not None:
                os.environ["EMOTION_CACHE_DIR"] = before


# --- splits


def splits(run: Run, setting: str, tiny: tuple[str, ...], parts: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return the split of a fit of one batch on drawn faces with people, a given split and duplicates."""
    if not Path("people.csv").exists():
        make_people(run)
    before = set(Path().rglob("split.parquet"))
    run("fit", *tiny, "--data", "people.csv", *SETTINGS[setting].split(), *ONE_BATCH)
    (table,) = set(Path().rglob("split.parquet")) - before
    return split_text(pd.read_parquet(table), parts)


def make_people(run: Run) -> None:
    """Write `people.csv` and its images: people, genders, a given split; copied and mirrored images across it."""
    with _own_cache() as cache:
        run(
            "data",
            "prepare",
            "--data",
            "drawn:largest=40,ratio=1.5,size=32,classes=angry+happy+sad",
            "--output",
            "drawn.csv",
        )
        table = pd.read_csv("drawn.csv", keep_default_na=False)
        Path("people").mkdir()
        (folder,) = {path.parents[1] for path in cache.rglob("000000.png")}
        for path in table["path"]:
            shutil.copy(folder / path, Path("people", Path(path).name))
    rows = [
        {
            "path": f"people/{Path(path).name}",
            "label": label,
            "subject": f"person {number // 4}" if number % 4 < 2 else "",
            "gender": gender,
            "split": ("train", "train", "test", "train")[number % 4],
        }
        for number, (path, label, gender) in enumerate(zip(table["path"], table["label"], table["gender"], strict=True))
    ]
    for number in (0, 6, 30, 42):  # the files of four images a second time, two of them mirrored, in the other part
        old = rows[number]
        new = f"people/again-{number}.png"
        if number in (6, 42):
            with Image.open(str(old["path"])) as image:
                image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(new)
        else:
            shutil.copy(str(old["path"]), new)
        rows.append(old | {"path": new, "split": "train" if old["split"] == "test" else "test"})
    pd.DataFrame(rows).to_csv("people.csv", index=False)


def split_text(table: pd.DataFrame, parts: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return fold -> part -> its rows; `copies`: row x how often; `together`: rows of one cluster or person."""
    called = {word: part for part, word in parts.items()}
    found: dict[str, dict[str, str]] = {}
    for fold, rows in table.groupby("fold"):
        copy = rows["is_copy"].astype(bool)
        entry: dict[str, str] = {}
        for role, originals in rows[~copy].groupby("role"):
            counts = originals["row"].value_counts().sort_index()
            entry[called[str(role)]] = _often(counts)
        for role, copies in rows[copy].groupby("role"):
            entry[f"copies in {called[str(role)]}"] = _often(copies["row"].value_counts().sort_index(), always=True)
        entry["together"] = _together(rows, "cluster")
        entry["people"] = _together(rows[rows["subject"] != ""], "subject")
        found[str(fold)] = {key: entry[key] for key in sorted(entry)}
    return found


def _often(counts: "pd.Series[int]", *, always: bool = False) -> str:
    return " ".join(f"{row}x{count}" if always or count > 1 else f"{row}" for row, count in counts.items())


def _together(rows: pd.DataFrame, column: str) -> str:
    groups = [sorted(part.unique()) for _, part in rows.groupby(column)["row"]]
    return " ".join("+".join(map(str, group)) for group in sorted(groups) if len(group) > 1)


def cross_validation(run_id: str, parts: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return the split of a finished cross-validation of the current folder."""
    (table,) = (path for path in Path("mlruns").rglob("split.parquet") if run_id in path.parts)
    return split_text(pd.read_parquet(table), parts)


# --- reports


def reports(run: Run, template: Path, parts: dict[str, str]) -> dict[str, Any]:
    """Return what the reports say of five runs whose tables are made of integers.

    Args:
        run: Runs a command.
        template: Folder of one exported run; its tables are replaced.
        parts: What the split table calls the train, val and test part.
    """
    for number, name in enumerate(("one", "two", "three", "four", "five")):
        _synthetic(template, Path("synthetic"), number, name, parts)
    shutil.copy(template.parent / "exchange.json", "synthetic")
    run("runs", "import", "synthetic")
    quick = ("--resamples", "300", "--permutations", "499")
    run("report", "compare", "one", "two", "three", "--pairs", *quick, "--out", "clusters")
    run("report", "compare", "four", "five", *quick, "--out", "independent")
    run("report", "certify", "one", "--out", "certificate", status=1)  # its metrics are those of the template
    (certificate,) = Path("certificate").glob("*.json")
    run("report", "bias", "one", "--by", "gender", "years", "--cross", "--bins", "years=0,18,60", "--by-class",
        "--minimum", "8", *quick, "--not-kept", "--out", "bias")  # fmt: skip
    found = {
        "compare, images in clusters": {"compare.csv": _table(Path("clusters/compare.csv"))},
        "compare, independent images": {"compare.csv": _table(Path("independent/compare.csv"))},
        "certify": {"intervals": _records(json.loads(certificate.read_text())["intervals"])},
        "bias": {path.name: _table(path) for path in sorted(Path("bias").glob("*.csv"))},
    }
    return found


def _synthetic(template: Path, into: Path, number: int, name: str, parts: dict[str, str]) -> None:
    """Write an exported run with tables of its own: `one` to `three` share clusters, `four` and `five` have none."""
    run_id = f"{number + 1:x}" * 32
    folder = into / run_id
    shutil.copytree(template, folder)
    predictions = _predictions(number, clustered=number < 3)
    split = pd.concat(
        [
            pd.DataFrame({"fold": fold, "row": rows["row"], "role": parts[part], "is_copy": False})
            for fold in range(4)
            for part, rows in (
                ("test", predictions[predictions["fold"] == fold]),
                ("train", predictions[predictions["fold"] != fold]),
            )
        ]
    ).merge(predictions[["row", "cluster", "subject"]], on="row")
    tables = {"predictions": predictions, "split": split}
    if number < 2:
        scores = np.random.default_rng(40 + number).integers(20, 50, (4, 3)) / 64
        folds = pd.DataFrame(scores, columns=["f1_macro", "accuracy", "balanced_accuracy"])
        tables["folds"] = pd.concat([pd.DataFrame({"seed": 0, "fold": range(4), "run_id": run_id}), folds], axis=1)
    marks = pd.read_parquet(folder / "artifacts/tables/predictions.parquet").attrs
    shutil.rmtree(folder / "artifacts/tables")
    (folder / "artifacts/tables").mkdir()
    for table, content in tables.items():
        content.attrs = marks  # the format, as the command writes it
        content.to_parquet(folder / f"artifacts/tables/{table}.parquet", index=False)
    facts = json.loads((folder / "run.json").read_text())
    facts |= {"run_id": run_id, "name": name}
    facts["tags"] |= {"mlflow.runName": name}
    facts["files"] = {
        file.relative_to(folder / "artifacts").as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((folder / "artifacts").rglob("*"))
        if file.is_file()
    }
    (folder / "run.json").write_text(json.dumps(facts))


def _predictions(number: int, *, clustered: bool) -> pd.DataFrame:
    """Return a prediction table of integers over 1024: the same images in each, other answers."""
    same, own = np.random.default_rng(9), np.random.default_rng(10 + number)
    size = 160
    cluster = np.sort(same.integers(0, 110, size)) if clustered else np.arange(size)
    label = same.choice(4, 110 if clustered else size, p=[0.125, 0.5, 0.25, 0.125])[cluster]
    woman, years = same.integers(0, 2, size), same.integers(4, 80, size)
    right = own.integers(0, 100, size) < 30 + 15 * (number % 3) + 15 * woman
    predicted = np.where(right, label, own.integers(0, 4, size))
    parts = own.integers(1, 200, (size, 4))
    parts[np.arange(size), predicted] = 0
    parts[np.arange(size), predicted] = 1024 - parts.sum(axis=1)
    names = np.array(CLASSES, dtype=object)
    table = pd.DataFrame({"row": np.arange(size), "path": [f"{row}.png" for row in range(size)]})
    table["content"] = [f"{row + 1000 * (not clustered):032x}" for row in range(size)]
    table["cluster"], table["subject"], table["fold"] = cluster, "", cluster % 4
    table["label"], table["predicted"] = names[label], names[predicted]
    for place, name in enumerate(CLASSES):
        table[f"prob_{name}"] = parts[:, place] / 1024
    table["gender"], table["years"] = np.where(woman == 1, "woman", "man"), years.astype(str)
    return table.drop(index=table.index[:5] if number == 2 else [])  # `three` lacks five images


def _table(path: Path) -> dict[str, Any]:
    table = pd.read_csv(path)
    return _records(table.astype(object).where(table.notna(), None).to_dict(orient="records"))


def _records(rows: list[dict[Any, Any]]) -> dict[str, Any]:
    return {
        "columns": [str(name) for name in rows[0]],
        "rows": [[_plain(value) for value in row.values()] for row in rows],
    }


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


# --- comparing and writing


def differences(stored: object, found: object, at: str = "") -> list[str]:
    """Return a line for each place where two values differ; numbers may differ by `TOLERANCE`."""
    if isinstance(stored, dict) and isinstance(found, dict):
        if "columns" in stored and "columns" in found:
            stored, found = _by_column(stored), _by_column(found)
        lines = [f"{at}: {key} is gone" for key in stored if key not in found]
        lines += [f"{at}: {key} is new" for key in found if key not in stored]
        for key in stored:
            if key in found:
                lines += differences(stored[key], found[key], f"{at}: {key}" if at else str(key))
        return lines
    if isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        return [
            line
            for place, (a, b) in enumerate(zip(stored, found, strict=True))
            for line in differences(a, b, f"{at}[{place}]")
        ]
    numbers = isinstance(stored, int | float) and isinstance(found, int | float)
    if numbers and abs(stored - found) <= TOLERANCE:  # type: ignore[operator]
        return []
    return [] if stored == found else [f"{at}: stored {stored!r}, found {found!r}"]


def _by_column(table: dict[str, Any]) -> dict[str, Any]:
    return {name: [row[place] for row in table["rows"]] for place, name in enumerate(table["columns"])}


def as_text(value: object, depth: int = 0) -> str:
    """Return JSON with one line an entry, so that a difference is one line of a diff."""
    margin = " " * (depth + 1)
    if isinstance(value, dict) and value:
        lines = [f"{margin}{json.dumps(key, ensure_ascii=False)}: {as_text(value[key], depth + 1)}" for key in value]
        return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "[\n" + ",\n".join(f"{margin}{as_text(one, depth + 1)}" for one in value) + "\n" + " " * depth + "]"
    return json.dumps(value, ensure_ascii=False)


def names_of_entries() -> dict[str, list[str]]:
    """Return group -> its entries, each of which is computed by itself."""
    return {"images": list(SOURCES), "splits": list(SETTINGS), "cross-validation": ["all"], "reports": ["all"]}


def _load_conftest() -> Any:
    spec = importlib.util.spec_from_file_location("commands_conftest", HERE / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main(groups: list[str]) -> None:
    """Compute the groups and write the file."""
    sys.path.insert(0, str(HERE.parents[1]))
    os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    from emotion import main as command

    shared = _load_conftest()

    def run(*words: str, status: int = 0) -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            found = command(list(words))
        if found != status:
            sys.exit(f"emotion {' '.join(words)}: status {found}\n{said.getvalue()}")

    known = names_of_entries()
    if unknown := set(groups) - set(known):
        sys.exit(f"unknown groups {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    stored = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, _own_cache():
        for group in groups or known:
            place = Path(folder, group)
            place.mkdir()
            os.chdir(place)
            if group == "images":
                found: Any = {name: images(run, name) for name in SOURCES}
            elif group == "splits":
                found = {name: splits(run, name, shared.TINY, shared.PARTS) for name in SETTINGS}
            elif group == "cross-validation":
                run("cross-validate", *shared.TINY, "--folds", "2")
                (run_id,) = {path.parents[2].name for path in Path("mlruns").rglob("folds.parquet")}
                found = {"all": cross_validation(run_id, shared.PARTS)}
            else:
                run("fit", *shared.TINY, *ONE_BATCH)
                run("runs", "export", "exported")
                (template,) = (path for path in Path("exported").iterdir() if path.is_dir())
                found = {"all": reports(run, template, shared.PARTS)}
            if differs := differences(stored.get(group, {}), found):
                print("\n".join(differs[:40]))
            stored[group] = found
        os.chdir(before)
    FILE.write_text(as_text({name: stored[name] for name in known if name in stored}) + "\n", encoding="utf-8")
    print(f"written: {FILE}")


if __name__ == "__main__":
    main(sys.argv[1:])
