"""`emotion predict`: classify a picture, a folder or a table of paths with a tracked run or a checkpoint."""

import argparse
import sys
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.pictures import PictureDataModule
from datamodules.places import replacing
from lightning_modules.device import best_device
from lightning_modules.stored import Trained, header, load_trained, run_checkpoint


def predict_table(
    trained: Trained, source: str, *, batch_size: int = 64, num_workers: int = 0, run: str = "the model"
) -> pd.DataFrame:
    """Classify pictures.

    Args:
        trained: the model, and how its pictures are prepared.
        source: a picture, a folder, or a table with a ``path`` column.
        batch_size: pictures a step.
        num_workers: processes that decode.
        run: the name of the model in errors.

    Returns:
        One row a picture: ``path``, ``predicted``, ``prob_<class>`` (sum 1) and ``error``; a picture that cannot be
        read has an error and no prediction.

    Raises:
        InputError: the images are whole photographs and the model is one of face crops, or there are no images.
    """
    pictures = PictureDataModule(source, trained.size, trained.fit, batch_size, num_workers)
    if trained.faces is not None:
        trained.faces.require_crops(run, "--data", source, pictures.paths)
    probabilities, errors = [], []
    device = best_device()
    model = trained.model.to(device).eval()
    with torch.inference_mode():
        for batch in tqdm(pictures.predict_dataloader(), desc="classifying", unit="batch", delay=1, disable=None):
            probabilities.append(model.probabilities(batch["image"].to(device)).cpu())  # (B, C)
            errors += batch["error"]
    table = pd.DataFrame(torch.cat(probabilities).numpy(), columns=[f"prob_{name}" for name in trained.classes])
    best = table.to_numpy().argmax(axis=1)
    table.insert(0, "path", [str(path) for path in pictures.paths])
    table.insert(1, "predicted", [trained.classes[index] for index in best])
    table["error"] = errors
    bad = table["error"] != ""
    table.loc[bad, [name for name in table if name.startswith("prob_")]] = float("nan")
    table.loc[bad, "predicted"] = ""
    return table


def main(args: list[str]) -> int:
    """Run the command; exit status 1 when a picture could not be read."""
    parser = argparse.ArgumentParser(prog="emotion predict", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", help="run id of a finished run (of a cross-validation: one of its folds)")
    which.add_argument("--checkpoint", help="a checkpoint file")
    parser.add_argument("--data", required=True, help="a picture, a folder, or a CSV/Parquet table with a path column")
    parser.add_argument("--output", help="where to write the table (.csv or .parquet); default: only print")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    options = parser.parse_args(args)
    if options.batch_size < 1 or options.workers < 0:
        msg = f"--batch-size and --workers: at least 1 and 0, got {options.batch_size} and {options.workers}"
        raise InputError(msg)
    if options.output and Path(options.output).suffix not in (".csv", ".parquet"):
        msg = f"--output: must end in .csv or .parquet, got {options.output}"
        raise InputError(msg)
    trained = load_trained(run_checkpoint(options.run) if options.run else Path(options.checkpoint))
    if options.run:
        print(header(options.run, trained), file=sys.stderr)  # what is piped on is the table alone
    run = f"run {options.run}" if options.run else options.checkpoint
    table = predict_table(trained, options.data, batch_size=options.batch_size, num_workers=options.workers, run=run)
    _show(table)
    if options.output:
        _write(table, Path(options.output))
        print(f"written: {options.output} ({len(table)} rows)")
    return int((table["error"] != "").any())


def _show(table: pd.DataFrame) -> None:
    probabilities = table.filter(like="prob_")
    for row in table[table["error"] == ""].head(20).itertuples():
        print(f"{row.path}\t{row.predicted}\t{probabilities.loc[row.Index].max():.3f}")
    for row in table[table["error"] != ""].head(20).itertuples():
        print(f"{row.path}\terror: {row.error}", file=sys.stderr)
    if len(table) > 20:
        counts = table["predicted"].replace("", "(unreadable)").value_counts()
        print(f"... {len(table) - 20} more. In all: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


def _write(table: pd.DataFrame, path: Path) -> None:
    try:
        with replacing(path) as part:
            if path.suffix == ".csv":
                table.to_csv(part, index=False)
            else:
                table.to_parquet(part, index=False)
    except OSError as error:
        msg = f"--output: cannot write {path}: {error.strerror or error}; choose a folder that exists and is writable"
        raise InputError(msg) from error
