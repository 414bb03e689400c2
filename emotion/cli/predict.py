"""Commands that use a trained model: `emotion predict`, `export` and `register`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.errors import InputError, invalid
from emotion.cli.main import Parser, not_empty, print_start, writable_file

if TYPE_CHECKING:  # it takes a second to import
    import pandas as pd


def main(args: list[str]) -> int:
    """Run `predict`, `export` or `register` and return the exit status.

    Raises:
        InputError: Bad input.
    """
    print_start(args)
    return {"predict": _predict, "export": _export, "register": _register}[args[0]](args[1:])


def _predict(args: list[str]) -> int:
    """Classify images; exit status 1 when one of them could not be read."""
    parser = Parser(
        prog="emotion predict",
        description="Classify an image, a folder or a table of paths with the model of a tracked run or a checkpoint. "
        "Exit status 1 if an image cannot be read.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", help="run id of a finished run; for a cross-validation, of one of its folds")
    which.add_argument("--checkpoint", help="a checkpoint file")
    parser.add_argument(
        "--data", type=not_empty, required=True, help="an image, a folder, or a CSV/Parquet table with a path column"
    )
    parser.add_argument("--output", type=not_empty, help="file for the table, .csv or .parquet (default: only print)")
    parser.add_argument("--batch-size", type=int, default=64, help="images in a batch (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images (default: %(default)s)")
    options = parser.parse_args(args)
    if options.batch_size < 1 or options.workers < 0:
        msg = f"--batch-size and --workers: must be at least 1 and 0, got {options.batch_size} and {options.workers}"
        raise InputError(msg)
    if options.output and Path(options.output).suffix not in (".csv", ".parquet"):
        msg = f"--output: must end in .csv or .parquet, got {options.output}"
        raise InputError(msg)
    if options.output:
        writable_file("--output", Path(options.output))
    from lightning_modules.predictor import header, load_trained, predict_table, write_predictions
    from results.tracking.runs import run_checkpoint

    trained = load_trained(run_checkpoint(options.run) if options.run else Path(options.checkpoint))
    if options.run:
        print(header(options.run, trained), file=sys.stderr)  # stdout has only the table
    run = f"run {options.run}" if options.run else options.checkpoint
    table = predict_table(trained, options.data, batch_size=options.batch_size, num_workers=options.workers, run=run)
    _show(table)
    if options.output:
        write_predictions(table, Path(options.output))
        print(f"written: {options.output} ({len(table)} rows)")
    return int((table["error"] != "").any())


def _show(table: "pd.DataFrame") -> None:
    probabilities = table.filter(like="prob_")
    for row in table[table["error"] == ""].head(20).itertuples():
        print(f"{row.path}\t{row.predicted}\t{probabilities.loc[row.Index].max():.3f}")
    for row in table[table["error"] != ""].head(20).itertuples():
        print(f"{row.path}\terror: {row.error}", file=sys.stderr)
    if len(table) > 20:
        counts = table["predicted"].replace("", "(unreadable)").value_counts()
        print(f"... {len(table) - 20} more. Total: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


def _export(args: list[str]) -> int:
    """Write a trained model as ONNX, with its preprocessing."""
    parser = Parser(prog="emotion export", description=_export.__doc__)
    parser.add_argument("run", help="run id of a finished run")
    parser.add_argument("--format", choices=["onnx"], default="onnx", help="file format (default: %(default)s)")
    parser.add_argument("--output", type=not_empty, help="file to write (default: RUN.onnx in this folder)")
    options = parser.parse_args(args)
    from lightning_modules.export import export_onnx, refuse_face_crops
    from lightning_modules.predictor import header, load_trained
    from results.tracking.runs import run_checkpoint

    path = writable_file("--output", Path(options.output or f"{options.run}.onnx"))
    trained = load_trained(run_checkpoint(options.run))
    refuse_face_crops(trained, options.run)
    print(header(options.run, trained), file=sys.stderr)
    difference = export_onnx(trained, path)
    print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB); differs from torch by at most {difference:.1e}")
    print(f"input: uint8 RGB (batch, 3, {trained.size}, {trained.size}); classes: {', '.join(trained.classes)}")
    return 0


def _register(args: list[str]) -> int:
    """Register a trained model in the MLflow model registry, as ONNX with its preprocessing."""
    parser = Parser(prog="emotion register", description=_register.__doc__)
    parser.add_argument("run", help="run id of a finished run")
    parser.add_argument("--name", type=not_empty, default="emotion", help="name in the registry (default: %(default)s)")
    options = parser.parse_args(args)
    if {"/", ":"} & set(options.name):
        raise invalid("--name", "must have no / and no :", options.name)
    from lightning_modules.export import register

    version = register(options.run, options.name)
    print(f"registered: {version.name} version {version.version} (emotion ui, page Models)")
    return 0
