"""The command `emotion detector`: train a face detector, evaluate it, export it as ONNX."""

import sys
from pathlib import Path

from datamodules.errors import InputError, did_you_mean, invalid
from emotion.cli.main import Parser, not_empty, print_start, writable_file

USAGE = """usage: emotion detector <fit|test|export> [options]

  fit     train on --data (default: drawn scenes); --from RUN or FILE.ckpt starts from a trained detector;
          --resume [RUN] resumes a stopped run
  test    evaluate RUN or FILE.ckpt on the test part of --data
  export  write RUN or FILE.ckpt as ONNX

emotion detector fit --help lists the options
"""

FIT = (
    "Train a face detector. Short options: --data SOURCE (--data.source), --boxes FILE (--data.boxes), --epochs N "
    "(--run.epochs), --size N (--data.size); --from RUN or FILE.ckpt starts from a trained detector, --resume [RUN] "
    "resumes a stopped run."
)


TEST = """usage: emotion detector test RUN|FILE.ckpt [--data SOURCE] [--boxes FILE] [--all]

Evaluate a trained face detector on the test part of --data (default: the data of the run), with --all on all images,
also those that it was trained on. Options of the data are those of `emotion detector fit`, such as --data.fold_seed.
"""


def main(args: list[str]) -> int:
    """Run ``detector fit``, ``detector test`` or ``detector export``; ``args`` begin with "detector"."""
    rest = args[1:]
    if rest and rest[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if not rest:
        print(f"{USAGE}\nerror: emotion detector: must be followed by fit, test or export", file=sys.stderr)
        return 2
    command, rest = rest[0], rest[1:]
    if command not in ("fit", "test", "export"):
        hint = did_you_mean(command, ["fit", "test", "export"])
        raise invalid("emotion detector", "must be followed by fit, test or export", command, hint)
    print_start([f"detector {command}", *rest])
    return {"fit": _fit, "test": _test, "export": _export}[command](rest)


def _fit(args: list[str]) -> int:
    if {"-h", "--help"} & set(args):
        from lightning_modules.config import all_options

        print(f"{FIT}\n\n{all_options('detector')}")
        return 0
    from lightning_modules.config import Options
    from lightning_modules.face_detector.training import detector_config
    from lightning_modules.training import train

    done = train(detector_config(Options.read(args, "detector")))
    assert done is not None  # one device
    if done.data.clipped:
        print(f"note: {done.data.clipped} boxes extended beyond the border of their images and were clipped")
    print(done.text)
    print(f"run {done.run_id} (to view it: emotion ui; to export it: emotion detector export {done.run_id[:8]})")
    return 0


def _test(args: list[str]) -> int:
    if {"-h", "--help"} & set(args):
        print(TEST)
        return 0
    from datamodules.face_boxes import BoxesDataModule
    from lightning_modules.config import Options, RunConfig
    from lightning_modules.face_detector.network import FaceDetector, intervals
    from lightning_modules.face_detector.training import checkpoint_of, evaluate, refuse_known, text_of
    from results.tracking.runs import find_run, run_config

    if not args or args[0].startswith("-"):
        msg = "emotion detector test: must be followed by a run or a .ckpt file, got none"
        raise InputError(msg)
    everything = "--all" in args  # all images, not the test part alone
    options = Options.read([word for word in args[1:] if word != "--all"], "detector")
    for name in options.values:
        if not name.startswith("data.") or name == "data.size":
            msg = f"--{name}: emotion detector test takes --all and the options of the data, such as --data.fold_seed"
            raise InputError(msg)
    checkpoint, is_file = checkpoint_of(args[0]), Path(args[0]).suffix == ".ckpt"
    own = {} if is_file or "data.source" in options else {"data": run_config(find_run(args[0]))["data"]}
    config = RunConfig.layered(options, "detector", own)  # refuses unknown options before the model is read
    model = FaceDetector.from_checkpoint(checkpoint)
    if is_file and "data.source" not in options:
        msg = "--data: is needed with a .ckpt file, which does not record its data; name the images"
        raise InputError(msg)
    data = BoxesDataModule(**{**config.data, "size": model.plain["size"]})
    if not everything:
        refuse_known(args[0], data, "RUN")
    rows = range(len(data.manifest)) if everything else data.fold.test.tolist()
    images = evaluate(model, data, rows)
    faces, kind = sum(image.faces for image in images), "images" if everything else "held-out images"
    print(f"{data.manifest.name}\n{text_of(intervals(images), len(images), faces, kind)}")
    return 0


def _export(args: list[str]) -> int:
    parser = Parser(prog="emotion detector export", description="Write a trained face detector as ONNX.")
    parser.add_argument("run", metavar="RUN", help="a run, or a .ckpt file")
    parser.add_argument("--output", type=not_empty, help="file to write (default: RUN.onnx in this folder)")
    parser.add_argument("--fixed", action="store_true", help="accept only images of the size that it was trained on")
    options = parser.parse_args(args)
    from lightning_modules.face_detector.export import export_onnx
    from lightning_modules.face_detector.network import FaceDetector
    from lightning_modules.face_detector.training import checkpoint_of

    path = writable_file("--output", Path(options.output or f"{Path(options.run).stem}.onnx"))
    if path.suffix.lower() != ".onnx":
        raise invalid("--output", "must end in .onnx", str(path))
    model = FaceDetector.from_checkpoint(checkpoint_of(options.run))
    worst = export_onnx(model, path, fixed=options.fixed)
    print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB); differs from torch by at most {worst:.1e}")
    print(f"to find faces with it: emotion data prepare --data PHOTOGRAPHS --faces {path} --output FOLDER")
    return 0
