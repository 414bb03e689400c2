"""Cross-validation: k runs below one parent run, in which each image is predicted once."""

import contextlib
import gc
import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from mlflow.exceptions import MlflowException
from tqdm import tqdm

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError, invalid
from lightning_modules.callbacks import EpochLines, first_rank, how_it_ended, quiet, sigterm_ends
from lightning_modules.config import RunConfig, RunOptions, data_module
from lightning_modules.limits import require_whole_runs
from lightning_modules.training import (
    RunResult,
    check_options,
    describe_run,
    keep_evaluation,
    log_data,
    note_other_code,
    prepare,
    require_unwritten,
    run_notes,
    send_what_waits,
    stated_tags,
    train,
    with_run_ids,
)
from results.predictions import join_folds
from results.statistics import whole_scores
from results.tracking import store
from results.tracking.logger import TrackingLogger
from results.tracking.runs import CONFIG, children, download, find_runs, find_whole_run, has_store, run_row
from sweeps.workers import VISIBLE_GPUS, environment_variables, require_one_device, worker_variables


@dataclass
class Member:
    """One fold with one seed.

    Attributes:
        run_id: Its run, None until it has one.
        result: Its tables, None until it has finished.
        manifest: Fingerprint of the data it was trained on, "" until it has finished.
    """

    run_id: str | None = None
    result: RunResult | None = None
    manifest: str = ""


Members = dict[tuple[int, int], Member]  # by seed and fold


def existing_members(parent_id: str, wanted: set[tuple[int, int]]) -> Members:
    """Return the existing runs of a cross-validation; of two with the same seed and fold the finished one is used."""
    members: Members = {}
    for row in children(parent_id).to_dict("records"):
        at = int(row["tags.seed"]), int(row["tags.fold"])
        if at in wanted and not (at in members and members[at].result):
            finished = row["status"] == "FINISHED"
            result = RunResult.from_run(row["run_id"]) if finished else None
            members[at] = Member(row["run_id"], result, str(row["tags.manifest"]) if finished else "")
    return members


def withdraw(members: Members) -> None:
    """Delete the reserved runs that were not started; if the store does not answer, a resume starts them."""
    with contextlib.suppress(InputError, MlflowException, OSError):
        for member in members.values():
            if member.run_id and not member.result:
                TrackingLogger(run_id=member.run_id).withdraw()


def record_resume(run_id: str) -> None:
    """Warn, and set as a tag of the run, that it is resumed with other code or packages."""
    for name, value in note_other_code(run_id).items():
        store.open_client().set_tag(run_id, name, value)


def end_stale_runs(run_ids: Iterable[str]) -> None:
    """Set the status of runs whose process ended, and of those below them, from RUNNING to KILLED.

    If the store does not answer, they keep their status.
    """
    with contextlib.suppress(MlflowException, InputError, OSError):
        client = store.open_client()
        for stale in run_ids:
            for run_id in [*children(stale)["run_id"], stale]:
                if client.get_run(run_id).info.status == "RUNNING":
                    client.set_terminated(run_id, "KILLED")


def end_stale_run(parent: str, name: str) -> None:
    """End, as `end_stale_runs`, the run of that name that an earlier attempt left running below a parent."""
    with contextlib.suppress(MlflowException, InputError, OSError):
        below = children(parent)
        if len(below):
            end_stale_runs(below[(below["name"] == name) & (below["status"] == "RUNNING")]["run_id"])


@dataclass(frozen=True)
class CrossValidation:
    """Result of a cross-validation; the parent run stores it, too.

    Attributes:
        run_id: The parent run.
        predictions: Prediction table of the first seed, every image once.
        folds: One row per seed and fold: run_id, f1_macro, accuracy, balanced_accuracy.
        pooled: One row per seed: the same scores over all images together.
        text: The printed result.
    """

    run_id: str
    predictions: pd.DataFrame
    folds: pd.DataFrame
    pooled: pd.DataFrame
    text: str


@dataclass(frozen=True)
class _Plan:
    """The trainings of a cross-validation: their common config, folds and seeds, and the data module they share."""

    config: RunConfig
    folds: int
    seeds: list[int]
    data: EmotionDataModule

    @property
    def todo(self) -> list[tuple[int, int]]:
        """Seed and fold of each training."""
        return [(seed, fold) for seed in self.seeds for fold in range(self.folds)]

    @property
    def identity(self) -> str:
        """Identity of the cross-validation: hash of config, data, folds and seeds."""
        seeds = "-".join(map(str, self.seeds))
        text = f"{self.config.identity(self.data.content_hash)} {self.folds} folds, seeds {seeds}"
        return hashlib.sha256(text.encode()).hexdigest()

    def config_of(self, seed: int, fold: int, parent: str | None, run_id: str | None) -> RunConfig:
        """Return the config of one training; the folds are those of the first seed throughout."""
        return self.config.override(
            {
                "seed_everything": seed,
                "data.split": "folds",
                "data.folds": self.folds,
                "data.fold": fold,
                "data.fold_seed": self.seeds[0],
                "run.parent": parent,
                "run.resume": run_id,
            }
        )

    def train(
        self, seed: int, fold: int, parent: str | None, run_id: str | None, callbacks: Sequence[Callback] = ()
    ) -> RunResult | None:
        """Train and evaluate one fold."""
        gc.collect()  # a trainer and its callbacks refer to each other; the memory of the last one is freed only now
        return train(self.config_of(seed, fold, parent, run_id), callbacks, self.data)

    def reserve(self, parent: str, members: Members) -> None:
        """Create the missing runs, so that a later fold can start while the tracking store does not answer.

        Args:
            parent: Run id of the cross-validation.
            members: The existing runs; the new ones are added.
        """
        recipe, experiment = self.config.run["recipe"], self.config.run["experiment"]
        for seed, fold in self.todo:
            if (seed, fold) not in members:
                name = f"{recipe} {self.data.manifest.name} fold {fold} seed {seed}"
                tags = {"kind": "run", "recipe": recipe, "seed": str(seed), "fold": str(fold)}
                tags["identity"] = self.config_of(seed, fold, parent, None).identity(self.data.content_hash)
                reserved = TrackingLogger(experiment=experiment, run_name=name, parent_run_id=parent, tags=tags)
                members[seed, fold] = Member(reserved.reserve())


def _plan(config: RunConfig, folds: int, seeds: list[int]) -> _Plan:
    # seed, fold and parent are each training's own, so they do not count for the identity
    fixed = {"seed_everything": seeds[0], "data.split": "folds", "data.folds": folds, "data.fold": 0}
    common = config.override({**fixed, "data.fold_seed": seeds[0], "run.parent": None, "run.resume": None})
    return _Plan(common, folds, seeds, data_module(common))


def _check(config: RunConfig, folds: int, seeds: Sequence[int], workers: int, resamples: int = 2000) -> None:
    """Check the arguments of `cross_validate` that need no data.

    Raises:
        InputError: One is out of range, or does not fit a cross-validation.
    """
    if folds < 2:
        msg = f"--folds: must be at least 2, got {folds}; for one split use `emotion fit --split holdout`"
        raise InputError(msg)
    if len(set(seeds)) != len(seeds):
        msg = f"--seeds: must not repeat a seed, got {seeds}"
        raise InputError(msg)
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise invalid("--seeds", "must be from 0 to 4294967295", list(seeds))
    if resamples < 100:
        msg = f"--resamples: must be at least 100 for an interval (2000 is usual), got {resamples}"
        raise InputError(msg)
    if not config.run["evaluate"]:
        msg = "--run.evaluate: must be true, since a cross-validation needs predictions, got false; leave it out"
        raise InputError(msg)
    if rule_of := RunOptions(**config.run).decides.rule:
        name, stated = rule_of
        rule = "of the mean of folds needs images that no fold has seen, so a cross-validation cannot fit it"
        hint = f"leave it out, then use `emotion calibrate RUN --{name} {stated} --data SOURCE`"
        raise invalid(f"--run.{name}", rule, stated, hint)
    if workers < 1:
        msg = f"--workers: must be at least 1, got {workers}"
        raise InputError(msg)
    if workers > 1:
        require_one_device(config, "a cross-validation with several --workers")
    quiet()
    check_options(config)
    require_whole_runs(config, "a cross-validation")


def describe_cross_validation(config: RunConfig, folds: int, seeds: list[int], workers: int = 1) -> str:
    """Describe what `cross_validate` would do with these arguments; trains nothing, stores no run.

    Raises:
        InputError: As in `cross_validate`.
    """
    _check(config, folds, seeds, workers)
    work = _plan(with_run_ids(config), folds, seeds)
    prepare(work.data)
    return describe_run(work.config, runs=len(work.todo), identity=work.identity, workers=workers, shared=work.data)


def cross_validate(
    config: RunConfig,
    *,
    folds: int,
    seeds: list[int],
    resume: str | None = None,
    resamples: int = 2000,
    study_id: str | None = None,
    name: str | None = None,
    workers: int = 1,
) -> CrossValidation | None:
    """Train and evaluate each fold once per seed.

    Args:
        config: Common options of all folds; split, fold, seed and parent are set here.
        folds: Number of folds, at least 2.
        seeds: Training seeds; the folds are those of the first seed throughout.
        resume: Parent run id to resume, or "auto" for the newest unfinished one of the same options and images.
        resamples: Bootstrap resamples of the pooled intervals, at least 100.
        study_id: Run id of the study that this cross-validation belongs to.
        name: Name of the run; by default that of ``--run.name``, else recipe, data and number of folds.
        workers: Processes that train folds at the same time; worker i uses GPU i, or they share the CPU threads.

    Returns:
        The pooled result of the first seed, and the spread over folds and seeds; None on other ranks than zero.

    Raises:
        InputError: Wrong options; a class with fewer clusters than folds; folds that do not cover the images once.
    """
    _check(config, folds, seeds, workers, resamples)
    work = _plan(with_run_ids(config), folds, seeds)
    data = work.data
    decides = RunOptions(**config.run).decides
    with sigterm_ends():
        parent_id = _parent_to_resume(work, resume)
        if parent_id and first_rank():  # for the other ranks, rank zero is the process that writes the run
            require_unwritten(parent_id)
        members = existing_members(parent_id, set(work.todo)) if parent_id else {}
        if not first_rank():  # trains together with rank zero, which stores the results
            for seed, fold in work.todo:
                member = members.get((seed, fold), Member())
                if member.result is None:
                    work.train(seed, fold, parent_id, member.run_id)
            return None
        prepare(data)
        data.setup("fit")  # refuse wrong data before a run is created
        print(*(f"note: {note}\n" for note in run_notes(config, data)), sep="", end="", file=sys.stderr, flush=True)
        parent = _open_parent(work, parent_id, study_id, name)
        parent.set_tags(stated_tags(config, data))
        try:
            work.reserve(str(parent.run_id), members)
            results = _run_folds(parent, work, members, workers)
            pooled = {seed: join_folds([results[seed, fold].predictions for fold in range(folds)]) for seed in seeds}
            _check_complete(pooled)
            split = pd.concat([results[seeds[0], fold].split for fold in range(folds)], ignore_index=True)
            text = keep_evaluation(parent, pooled[seeds[0]], split, resamples=resamples)
            fold_table = pd.DataFrame(
                [{"seed": s, "fold": f, "run_id": results[s, f].run_id, **results[s, f].scores} for s, f in work.todo]
            )
            classes = results[seeds[0], 0].classes
            scores = [{"seed": seed, **whole_scores(table, classes)} for seed, table in pooled.items()]
            pooled_table = pd.DataFrame(scores)
            _log_spread(parent, fold_table, pooled_table)
            parent.finalize("success")
        except BaseException as error:
            with contextlib.suppress(OSError):  # report the first error, not that the end of the run cannot be written
                parent.finalize(how_it_ended(error))
            hint = f"finished folds are kept; to resume, run the same command with --resume {parent.run_id}"
            print(hint, file=sys.stderr, flush=True)
            withdraw(members)
            raise
        if decides:  # for the mean of the folds, too
            from sweeps.calibration import calibrate  # few runs have decisions

            text += "\n" + calibrate([str(parent.run_id)], decides)[-1].text
    return CrossValidation(str(parent.run_id), pooled[seeds[0]], fold_table, pooled_table, text)


def _parent_to_resume(work: _Plan, resume: str | None) -> str | None:
    if resume is None:
        return None
    if not has_store():
        if resume != "auto":
            msg = (
                f"--resume: there are no runs in this folder, got {resume!r}; change to the folder that contains mlruns"
            )
            raise InputError(msg)
        if first_rank():
            print("--resume: there are no runs yet; a new run starts", file=sys.stderr)
        return None
    send_what_waits()  # a fold may have finished while the server was unreachable
    if resume != "auto":
        stored = run_row(find_whole_run(resume))
        prepare(work.data)
        if stored.get("tags.identity") != work.identity:
            msg = (
                f"--resume: {resume} is {stored['name']!r}, which has other options or images; give those it was "
                "started with, or leave --resume out"
            )
            raise InputError(msg)
        return str(stored["run_id"])
    prepare(work.data)
    same = f"tags.identity = '{work.identity}' and attributes.status != 'FINISHED'"
    unfinished = find_runs(where=same, limit=1)
    if not unfinished.empty:
        return str(unfinished.iloc[0]["run_id"])
    if first_rank():
        advice = "no unfinished cross-validation has these options and images; a new run starts"
        print(f"--resume: {advice}", file=sys.stderr)
    return None


def _open_parent(work: _Plan, run_id: str | None, study_id: str | None, name: str | None) -> TrackingLogger:
    run = work.config.run
    other = note_other_code(run_id) if run_id else {}
    parent = TrackingLogger(
        experiment=run["experiment"],
        run_name=name or run["name"] or f"{run['recipe']} {work.data.manifest.name} {work.folds}-fold",
        run_id=run_id,
        parent_run_id=study_id,
        system_metrics=False,
        tags={
            "kind": "cross-validation",
            "recipe": run["recipe"],
            "backbone": str(work.config.model["backbone"]),
            "seed": ",".join(map(str, work.seeds)),
            "identity": work.identity,
            "folds": str(work.folds),
        },
    )
    parent.open()
    if other:
        parent.set_tags(other)
    return parent


def _run_folds(parent: TrackingLogger, work: _Plan, members: Members, workers: int) -> dict[tuple[int, int], RunResult]:
    """Train the folds that have not finished; log config and data set of the first one to the parent.

    Raises:
        InputError: Folds of different versions of the data, or without predictions.
    """
    todo, data = work.todo, work.data
    first = members[todo[0]]
    if first.result:  # of an earlier start, which may have ended before it logged this
        parent.log_file(download(first.result.run_id, CONFIG))
        parent.set_tags({"manifest": first.manifest})
    results = {at: member.result for at, member in members.items() if member.result}
    left = [at for at in todo if at not in results]
    if left:
        log_data(parent, data)
    workers = min(workers, len(left))
    run = _one_by_one if workers <= 1 else partial(_in_workers, workers=workers)
    finished = run(work, str(parent.run_id), {at: members[at].run_id for at in left})
    with contextlib.closing(finished):  # ends the workers, whatever ends this
        for (seed, fold), result in tqdm(finished, "folds", len(todo), unit="fold", initial=len(results), disable=None):
            member = members[seed, fold]
            member.result, member.manifest = result, data.manifest.fingerprint()
            results[seed, fold] = result
            if (seed, fold) == todo[0]:
                parent.log_text(work.config_of(seed, fold, str(parent.run_id), None).to_yaml(), CONFIG)
                parent.set_tags({"manifest": member.manifest})
            scores = result.scores
            line = f"fold {fold} seed {seed} ({len(results)} of {len(todo)}): macro F1 {scores['f1_macro']:.3f}"
            tqdm.write(f"{line}, accuracy {scores['accuracy']:.3f}", file=sys.stderr)
            states = {member.manifest for member in members.values() if member.manifest}
            if len(states) > 1:
                msg = f"folds: all must use the same data, got {len(states)} versions; start a new run without --resume"
                raise InputError(msg)
    return results


Reserved = Mapping[tuple[int, int], str | None]  # seed and fold -> its run
Finished = Generator[tuple[tuple[int, int], RunResult]]


def _one_by_one(work: _Plan, parent: str, left: Reserved) -> Finished:
    """Train folds in this process, one after the other."""
    for number, ((seed, fold), run_id) in enumerate(left.items(), start=len(work.todo) - len(left) + 1):
        tqdm.write(f"fold {fold} seed {seed} starts ({number} of {len(work.todo)})", file=sys.stderr)
        done = work.train(seed, fold, parent, run_id)
        assert done is not None  # of rank zero
        result = RunResult.tables_of(done)
        del done  # with its model
        yield (seed, fold), result


def _in_workers(work: _Plan, parent: str, left: Reserved, workers: int) -> Finished:
    """Train folds in several processes, each of which takes the next fold when it has finished one.

    Raises:
        InputError: A fold could not be trained, or a process was ended; the folds that finished are kept.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(left.items())
    running: dict[Connection, tuple[SpawnProcess, tuple[int, int]]] = {}
    settings = (work.config.as_dict(), work.folds, work.seeds, parent)

    def next_fold(connection: Connection, process: SpawnProcess) -> None:
        if waiting:
            (seed, fold), run_id = waiting.pop(0)
            running[connection] = process, (seed, fold)
            connection.send((seed, fold, run_id))
            tqdm.write(f"fold {fold} seed {seed} starts", file=sys.stderr)
        else:
            connection.close()  # the process ends

    processes: list[SpawnProcess] = []
    failed = False
    try:
        for variables in worker_variables(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, *settings), daemon=False)
            with environment_variables(variables):
                process.start()
            theirs.close()
            processes.append(process)
            next_fold(ours, process)
        while running:
            for connection in cast(list[Connection], wait(list(running), timeout=5)):
                process, (seed, fold) = running.pop(connection)
                try:
                    result, problem = connection.recv()
                except EOFError:
                    process.join(10)
                    result, problem = None, _ended(process.exitcode)
                    end_stale_runs([str(left[seed, fold])])
                if problem:
                    failed = True
                    msg = f"fold {fold} seed {seed}: {problem}"
                    raise InputError(msg)
                yield (seed, fold), result
                next_fold(connection, process)
    finally:
        for connection in running:
            connection.close()
        for process in processes:
            if failed:
                process.terminate()  # its fold can be resumed
            process.join(20)  # after Ctrl-C they end by themselves, and close their runs
            if process.is_alive():
                process.terminate()
                process.join()


def _ended(status: int | None) -> str:
    if status is not None and status < 0:
        return f"its process was ended by {signal.Signals(-status).name}; if memory ran out, give fewer --workers"
    return f"its process ended with status {status}; see what it printed above"


class _Labelled(EpochLines):
    """Progress lines that name the fold, and a tag with the devices and threads of this process."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the tag while the run is open."""
        super().on_train_start(trainer, pl_module)
        resources = f"{VISIBLE_GPUS}={os.environ.get(VISIBLE_GPUS, '')}, {torch.get_num_threads()} threads"
        cast(TrackingLogger, trainer.logger).set_tags({"worker": resources})


def _serve(connection: Connection, config: dict[str, Any], folds: int, seeds: list[int], parent: str) -> None:
    """Train the folds that come over a connection until it is closed; send back tables or an error message."""
    common = RunConfig.from_dict(config).override({"trainer.enable_progress_bar": False})
    work = _Plan(common, folds, seeds, data_module(common))
    with contextlib.suppress(EOFError, KeyboardInterrupt):  # the process that started this one reports Ctrl-C
        while True:
            seed, fold, run_id = connection.recv()
            try:
                done = work.train(seed, fold, parent, run_id, [_Labelled(f"fold {fold} seed {seed}: ")])
                assert done is not None  # one process
                result = RunResult.tables_of(done)
                del done  # with its model
                connection.send((result, ""))
            except InputError as error:
                connection.send((None, str(error)))


def _check_complete(pooled: dict[int, pd.DataFrame]) -> None:
    """Raise unless every seed predicted the same images, and each image once."""
    first = next(iter(pooled.values()))
    missing = np.setdiff1d(np.arange(first["row"].max() + 1), first["row"])
    other = [seed for seed, table in pooled.items() if not table[["row", "content"]].equals(first[["row", "content"]])]
    if len(missing) or other:
        msg = (
            f"folds: each image must be predicted once; {len(missing)} were not (rows {missing[:5].tolist()}), and "
            f"seeds {other} predicted other images. The data may have changed; start a new run without --resume"
        )
        raise InputError(msg)


def _log_spread(parent: TrackingLogger, folds: pd.DataFrame, pooled: pd.DataFrame) -> None:
    """Log mean and standard deviation over the first seed's folds, and over the seeds."""
    first = folds[folds["seed"] == folds["seed"].iloc[0]]
    for name in ("f1_macro", "accuracy"):
        parent.log_metrics({f"folds/{name}_mean": first[name].mean(), f"folds/{name}_sd": first[name].std(ddof=1)})
        if len(pooled) > 1:
            parent.log_metrics(
                {f"seeds/{name}_mean": pooled[name].mean(), f"seeds/{name}_sd": pooled[name].std(ddof=1)}
            )
    parent.log_table(folds, "folds")
    parent.log_table(pooled, "seeds")
