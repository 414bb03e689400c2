"""Commands that use a trained model: `emotion predict`, `evaluate`, `export`, `soup` and `register`."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.errors import InputError, invalid
from datamodules.read_options import spellings
from emotion.cli.data import add_reading_arguments, given_fields, reading
from emotion.cli.main import PIXEL_LIMIT_HELP, Parser, not_empty, print_start, whole_from, writable_file

if TYPE_CHECKING:  # it takes a second to import
    import pandas as pd

USED_BY_PREDICT = ("path_column", "images")  # reading options that say where images are, not their labels


def main(args: list[str]) -> int:
    """Run `predict`, `evaluate`, `export`, `soup` or `register` and return the exit status.

    Raises:
        InputError: Bad input.
    """
    print_start(args)
    commands = {"predict": _predict, "evaluate": _evaluate, "export": _export, "soup": _soup, "register": _register}
    return commands[args[0]](args[1:])


def _predict_parser() -> Parser:
    """Return the parser of `emotion predict`."""
    parser = Parser(
        prog="emotion predict",
        usage="emotion predict RUN SOURCE... [options]   or   emotion predict --run RUN... --data SOURCE... [options]",
        description="Classify images, folders, globs, archives, tables of paths and videos with a trained model. A "
        "model of faces finds and cuts the faces itself. Exit status 1 if an image cannot be read.",
    )
    parser.add_argument(
        "words", nargs="*", metavar="RUN SOURCE", help="a run, then images; - reads one image from stdin"
    )
    parser.add_argument(
        "--run",
        nargs="+",
        type=not_empty,
        metavar="RUN",
        help="runs (cross-validation: all folds), .ckpt or .onnx files, or models:/NAME/VERSION; several are averaged",
    )
    parser.add_argument("--checkpoint", type=not_empty, help="a checkpoint file, as --run FILE.ckpt")
    parser.add_argument("--data", nargs="+", type=not_empty, metavar="SOURCE", help="images, instead of SOURCE")
    parser.add_argument("--output", type=not_empty, help="write the table here: .csv, .json, .jsonl or .parquet")
    parser.add_argument("--format", choices=["csv", "json", "jsonl"], help="print the whole table in this format")
    parser.add_argument(
        "--draw", type=not_empty, metavar="DIR", help="write images with boxes and bars into this folder"
    )
    parser.add_argument(
        "--every", type=float, metavar="SECONDS", help="time between two frames of a video (default: 1)"
    )
    parser.add_argument(
        "--out-of-fold",
        action="store_true",
        help="answer the images of a cross-validation by the fold that did not see them",
    )
    parser.add_argument("--faces", type=not_empty, metavar="DETECTOR", help="find faces with haar, yunet:FILE or "
                        "FILE.onnx (default: as in training)")  # fmt: skip
    parser.add_argument(
        "--engine", choices=["auto", "torch", "onnxruntime"], default="auto", help="library that runs the network"
    )
    parser.add_argument("--batch-size", type=whole_from(1), default=64, help="images in a batch (default: %(default)s)")
    parser.add_argument("--pixel-limit", type=whole_from(1), metavar="N", help=PIXEL_LIMIT_HELP)
    parser.add_argument(
        "--workers", type=whole_from(0), default=0, help="threads that read images (default: all cores)"
    )
    add_reading_arguments(parser)
    return parser


def _predict(args: list[str]) -> int:
    """Classify images; exit status 1 when one of them could not be read."""
    parser = _predict_parser()
    options = parser.parse_args(args)
    runs, sources = _runs_and_sources(parser, options)
    if options.output:
        if Path(options.output).suffix not in (".csv", ".json", ".jsonl", ".parquet"):
            msg = f"--output: must end in .csv, .json, .jsonl or .parquet, got {options.output}"
            raise InputError(msg)
        writable_file("--output", Path(options.output))
    if options.every is not None and not 0 < options.every < float("inf"):
        raise invalid("--every", "must be above 0 seconds", options.every)
    if options.out_of_fold and len(runs) > 1:
        raise invalid("--out-of-fold", "needs one run, a cross-validation", " ".join(runs), "name one of them")
    draw = Path(options.draw) if options.draw else None
    if draw is not None:
        _make_folder(draw)
    read = reading(options)
    if unused := [name for name in given_fields(options) if name not in USED_BY_PREDICT]:
        words = ", ".join(spellings()[name].words[0] for name in unused)
        print(f"note: predict reads no labels, so these options have no effect: {words}", file=sys.stderr)
    from lightning_modules.predictor import Predictor, header, write_predictions

    predictor = Predictor.load(*runs, engine=options.engine, faces=options.faces)
    predictor.pixel_limit = options.pixel_limit or predictor.pixel_limit
    if options.out_of_fold:
        predictor.load_out_of_fold(runs[0])
    print(header(predictor), file=sys.stderr)  # stdout has only the table
    stdin = sys.stdin.buffer.read() if "-" in sources else None
    rows: list[dict[str, Any]] = []
    stopped = False
    try:
        for batch in predictor.stream(
            *sources,
            every=options.every,
            batch_size=options.batch_size,
            workers=options.workers or None,
            stdin=stdin,
            read=read,
        ):
            rows += batch
            if draw is not None:
                from datamodules.files.images import limited_to
                from emotion.drawings import draw_answers

                with limited_to(predictor.pixel_limit):
                    draw_answers(batch, predictor.classes, draw, stdin)
    except KeyboardInterrupt:
        stopped = True
    import pandas as pd

    table = pd.DataFrame(rows, columns=predictor.columns)
    _show(table, options.format)
    if options.output:
        write_predictions(table, Path(options.output))
        print(f"written: {options.output} ({len(table)} rows)", file=sys.stderr if options.format else sys.stdout)
    if line := predictor.left_out.line:
        print(f"note: {line}", file=sys.stderr)
    if predictor.seen:
        folds = len(runs) == 1 and len(predictor.members) > 1
        known = f"{predictor.seen} of these images"
        hint = "; --out-of-fold answers by the fold that did not see them" if folds else ""
        print(
            f"note: the model was trained or selected on {'this image' if len(table) == 1 else known}, so this does "
            f"not show how good it is{hint}",
            file=sys.stderr,
        )
    if stopped:
        print(f"stopped after {len(table)} rows, which are kept", file=sys.stderr)
        return 130
    return int(table["note"].str.startswith("error: ").any())


def _runs_and_sources(parser: Parser, options: Any) -> tuple[list[str], list[str]]:  # noqa: ANN401 - of argparse
    """Return the models and the images that the two spellings name."""
    words = list(options.words)
    runs = [*(options.run or []), *([options.checkpoint] if options.checkpoint else [])]
    if options.run and options.checkpoint:
        parser.error("argument --checkpoint: not allowed with argument --run")
    if not runs:
        if not words:
            parser.error("a run is required: emotion predict RUN SOURCE..., or --run RUN")
        runs.append(words.pop(0))
    sources = [*words, *(options.data or [])]
    if not sources:
        parser.error("images are required: emotion predict RUN SOURCE..., or --data SOURCE")
    return runs, sources


def _make_folder(folder: Path) -> None:
    """Make the folder of --draw.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise invalid("--draw", f"must be a folder that can be made ({error.strerror})", str(folder)) from error
    if not os.access(folder, os.W_OK):
        raise invalid("--draw", "must be a folder that you may write to", str(folder))


def _show(table: "pd.DataFrame", form: str | None) -> None:
    """Print the table as asked for, or the first rows of it; unreadable images on standard error."""
    wrong = table["note"].str.startswith("error: ")
    for row in table[wrong].head(20).itertuples():
        print(f"{row.path}\t{row.note}", file=sys.stderr)
    if form == "csv":
        print(table.to_csv(index=False), end="")
    elif form is not None:
        print(table.to_json(orient="records", lines=form == "jsonl", force_ascii=False).rstrip())
    if form is not None:
        return
    for row in table[~wrong].head(20).itertuples():
        place = row.path if row.frame is None or row.frame != row.frame else f"{row.path} frame {int(row.frame)}"
        answer = [row.label, f"{row.confidence:.3f}"] if row.label else []
        print("\t".join([place, *answer, *([row.note] if row.note else [])]))
    if len(table) > 20:
        counts = table["label"].replace("", "(no answer)").value_counts()
        print(f"... {len(table) - 20} more. Total: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


def _evaluate_parser() -> Parser:
    """Return the parser of `emotion evaluate`."""
    parser = Parser(
        prog="emotion evaluate",
        description="Score models on all images of other labelled data sets. (`emotion test` scores a run on its own "
        "test part, `emotion validate` on its val part.) Several models and data sets print the matrix of macro F1.",
    )
    parser.add_argument("run", nargs="+", metavar="RUN", help="run, .ckpt or .onnx file, or models:/NAME/VERSION")
    parser.add_argument("--data", nargs="+", type=not_empty, required=True, metavar="SOURCE", help="labelled data sets")
    parser.add_argument("--ensemble", action="store_true", help="average the models instead of scoring each")
    parser.add_argument("--part", type=not_empty, help="only this part of the data set's own split, such as test")
    parser.add_argument(
        "--allow-seen", action="store_true", help="also score images that a model was trained on; a column marks them"
    )
    parser.add_argument(
        "--degrade",
        nargs="+",
        default=[],
        metavar="KIND",
        help="also score damaged copies: blur, dark, small, occluded, noise",
    )
    parser.add_argument("--faces", type=not_empty, metavar="DETECTOR", help="find faces with haar, yunet:FILE or "
                        "FILE.onnx (default: as in training)")  # fmt: skip
    parser.add_argument(
        "--resamples", type=whole_from(100), default=2000, help="bootstrap resamples (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=whole_from(1), default=64, help="images in a batch (default: %(default)s)")
    parser.add_argument("--pixel-limit", type=whole_from(1), metavar="N", help=PIXEL_LIMIT_HELP)
    parser.add_argument(
        "--experiment", type=not_empty, default="emotion", help="MLflow experiment (default: %(default)s)"
    )
    add_reading_arguments(parser)
    return parser


def _evaluate(args: list[str]) -> int:
    """Score trained models on other labelled data sets, as tracked runs."""
    options = _evaluate_parser().parse_args(args)
    from datamodules.files.images import limited_to
    from lightning_modules.evaluation import evaluate_on
    from lightning_modules.predictor import Predictor

    groups = [options.run] if options.ensemble else [[name] for name in options.run]
    # a label that is no known emotion is a class that the model does not know: it is left out and listed
    read_options = reading(options, unknown_labels="keep")
    scores: dict[str, dict[str, float]] = {}
    for names in groups:
        predictor = Predictor.load(*names, faces=options.faces)
        predictor.pixel_limit = options.pixel_limit or predictor.pixel_limit
        for source in options.data:
            print(f"{predictor.name} on {source} ...", file=sys.stderr, flush=True)
            with limited_to(predictor.pixel_limit):
                found = evaluate_on(
                    predictor,
                    source,
                    read_options,
                    part=options.part,
                    allow_seen=options.allow_seen,
                    degrade=options.degrade,
                    resamples=options.resamples,
                    batch_size=options.batch_size,
                    experiment=options.experiment,
                )
            print(found.text)
            print(*(f"note: {line}" for line in found.left_out), sep="\n", file=sys.stderr)
            if len(found.degraded):
                _show_degraded(found.degraded)
            print(f"run {found.run_id}; next: emotion report compare {found.run_id[:8]} OTHER_RUN (or bias, certify)\n")
            scores.setdefault(predictor.name, {})[source] = found.scores["f1_macro"]
    if len(scores) > 1 or len(options.data) > 1:
        import pandas as pd

        print("macro F1\n" + pd.DataFrame(scores).T.to_string(float_format=lambda value: f"{value:.3f}"))
    return 0


def _show_degraded(table: "pd.DataFrame") -> None:
    print("damaged copies against the images as they are, paired, 95% intervals")
    for row in table.itertuples():
        name = {"f1_macro": "macro F1"}.get(row.metric, row.metric)
        interval = f"({row.low:+.3f} to {row.high:+.3f})"
        print(f"  {row.degraded:<9} {name:<9} {row.value:.3f}  difference {row.difference:+.3f} {interval}")
    print()


def _export(args: list[str]) -> int:
    """Write a trained model as ONNX, with its preprocessing; of a cross-validation the mean of its folds."""
    parser = Parser(prog="emotion export", description=_export.__doc__)
    about = "run id or its start, name, or latest"
    parser.add_argument("run", metavar="RUN", help=about)
    parser.add_argument("--format", choices=["onnx"], default="onnx", help="file format (default: %(default)s)")
    parser.add_argument("--output", type=not_empty, help="file to write (default: RUN.onnx in this folder)")
    options = parser.parse_args(args)
    from lightning_modules.export import export_onnx
    from lightning_modules.predictor import find_model_run, load_trained, member_runs
    from results.tracking.runs import run_checkpoint, run_row

    path = writable_file("--output", Path(options.output or f"{options.run}.onnx"))
    run_id = find_model_run(options.run)
    members = member_runs(run_id)
    networks = [load_trained(run_checkpoint(member)) for member in members]
    trained = networks[0]
    print(f"run {run_row(run_id)['name']} [{run_id[:8]}], classes: {', '.join(trained.classes)}", file=sys.stderr)
    if len(members) > 1:
        print(
            f"note: the file holds the mean of {len(members)} networks and is as many times slower; for one of them: "
            f"emotion export {members[0][:8]}",
            file=sys.stderr,
        )
    difference = export_onnx(networks, path)
    print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB); differs from torch by at most {difference:.1e}")
    crops = f" {trained.faces}" if trained.faces else ""
    print(f"input: uint8 RGB (batch, 3, {trained.size}, {trained.size}){crops}; classes: {', '.join(trained.classes)}")
    return 0


def _soup(args: list[str]) -> int:
    """Average the weights of several runs with the same architecture, and write one checkpoint.

    Predictions take as long as with one run. The runs should have started from one checkpoint (--run.start_from). Runs
    that share only the weights of their backbone usually give a poor model: score it with `emotion evaluate` before you
    use it.
    """
    parser = Parser(prog="emotion soup", description=_soup.__doc__)
    parser.add_argument("runs", nargs="+", type=not_empty, metavar="RUN", help="runs or .ckpt files, at least two")
    parser.add_argument(
        "--output",
        type=not_empty,
        default="soup.ckpt",
        help="file to write, which must not exist yet (default: %(default)s)",
    )
    options = parser.parse_args(args)
    if Path(options.output).suffix != ".ckpt":
        raise invalid("--output", "must end in .ckpt", options.output)
    from lightning_modules.warm_start import write_soup

    path = writable_file("--output", Path(options.output))
    if os.path.lexists(path):  # such as one of the models that are averaged
        raise invalid("--output", "must be a file that does not exist yet", options.output, "name another file")
    classes, decided = write_soup(options.runs, path)
    if decided:
        print(
            f"note: the decisions fitted for {', '.join(decided)} (calibration, thresholds, risk or coverage) do not "
            "hold for the mean and are left out; the mean chooses the most probable class",
            file=sys.stderr,
        )
    print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB), mean of {len(options.runs)} models")
    print(
        f"classes: {', '.join(classes)}\nuse it:  emotion predict {path} IMAGE, or emotion evaluate {path} --data DATA"
    )
    return 0


def _register(args: list[str]) -> int:
    """Register a trained model in the MLflow model registry: it takes images and returns labels."""
    parser = Parser(prog="emotion register", description=_register.__doc__)
    parser.add_argument("run", metavar="RUN", help="run id or its start, name, or latest")
    parser.add_argument("--name", type=not_empty, default="emotion", help="name in the registry (default: %(default)s)")
    parser.add_argument("--alias", type=not_empty, help="alias of this version, such as champion")
    options = parser.parse_args(args)
    for option, text in (("--name", options.name), ("--alias", options.alias or "")):
        if {"/", ":"} & set(text):
            raise invalid(option, "must have no / and no :", text)
    from lightning_modules.registry import register
    from results.tracking.store import tracking_uri, without_password

    version = register(options.run, options.name, alias=options.alias)
    print(f"registered: {version.name} version {version.version} (emotion ui, page Models)")
    where = f"MLFLOW_TRACKING_URI={shlex.quote(without_password(tracking_uri()))}"
    print(f"serve it: {where} mlflow models serve --env-manager local -m models:/{version.name}/{version.version}")
    return 0
