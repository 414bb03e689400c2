"""Where searches and studies keep their trials: a SQLite file for one worker, PostgreSQL for any number of them."""

import contextlib
import os
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy import text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from datamodules.errors import InputError

EMBEDDED = "sqlite:///mlruns/optuna.db"  # beside the runs, whose room imports MLflow, which takes seconds
VARIABLE = "OPTUNA_STORAGE"  # Optuna's own; an address in the environment is not shown by `ps`
HEARTBEAT, GRACE = 10, 60  # seconds between signs of life, and without one until a trial is taken for lost
MOST_RETRIES = 3  # a trial that takes its worker down every time is left at last
_LOCK = 1_163_870_542  # this project's first number of PostgreSQL's advisory locks; the study gives the second
_KINDS = "a file (sqlite:///path/to/file.db) or PostgreSQL (postgresql://user@host/database)"


def address(url: str | None = None) -> str:
    """Return the address that is meant: the given one, $OPTUNA_STORAGE, or the embedded file.

    Raises:
        InputError: an address of another kind.
    """
    url = url or os.environ.get(VARIABLE) or EMBEDDED
    scheme, _, rest = url.partition("://")
    if scheme in ("postgresql", "postgres", "postgresql+psycopg") and rest.strip("/"):
        return f"postgresql+psycopg://{rest}"
    if scheme == "sqlite" and rest.startswith("/") and rest[1:] and rest[1:] != ":memory:":
        return url
    from records.store import without_password

    msg = f"--storage: {_KINDS}, got {without_password(url)!r}; leave it out for {EMBEDDED}"
    raise InputError(msg)


def is_shared(url: str) -> bool:
    """Return whether several workers may use this storage at once."""
    return url.startswith("postgresql")


def require_one_worker(url: str, workers: int) -> None:
    """Refuse several workers on a SQLite file.

    Raises:
        InputError: so.
    """
    if workers > 1 and not is_shared(url):
        msg = (
            f"--workers: {workers} workers need PostgreSQL, and the storage is a SQLite file: there one worker's write "
            "locks the others out, and trials fail with `database is locked`. Give --storage "
            "postgresql://user@host/database, or --workers 1"
        )
        raise InputError(msg)


def open_storage(
    url: str | None = None, *, heartbeat: int = HEARTBEAT, grace: int = GRACE, checked: bool = False
) -> RDBStorage:
    """Return the storage, its tables made when they are absent.

    A password may stand in the address, in $PGPASSWORD or in ~/.pgpass; it is never printed.

    Args:
        url: address; None: $OPTUNA_STORAGE, or else the embedded file.
        heartbeat: seconds between signs of life of a running trial.
        grace: seconds without one until a trial is taken for lost and queued again.
        checked: the tables are known to be there and to fit; looking takes two seconds, which no trial should pay.

    Raises:
        InputError: an address of another kind, or a storage that does not answer.
    """
    url = address(url)
    if not is_shared(url):
        folder = Path(urlsplit(url).path[1:]).absolute().parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"--storage: the folder {folder} cannot be made ({error.strerror}); name a file in another folder"
            raise InputError(msg) from error
    options = {"pool_pre_ping": True} if is_shared(url) else {"connect_args": {"timeout": 30}}
    for left in (2, 1, 0):
        try:
            with quiet():
                return RDBStorage(
                    url,
                    engine_kwargs=options,
                    heartbeat_interval=heartbeat,
                    grace_period=grace,
                    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=MOST_RETRIES),
                    skip_compatibility_check=checked,
                    skip_table_creation=checked,
                )
        except (SQLAlchemyError, ArgumentError, RuntimeError, ImportError, OSError) as error:
            if left and "already exists" in str(error):  # another worker was making the tables, too
                time.sleep(1)
                continue
            from records.store import reason, without_password

            msg = (
                f"--storage: {without_password(url)} must be a database that answers, it did not "
                f"({reason(error)}). Start the server and create the database (createdb), or correct the address; a "
                "password may stand in $PGPASSWORD or ~/.pgpass"
            )
            raise InputError(msg) from None  # the cause may hold the whole address
    raise AssertionError


def close(storage: RDBStorage) -> None:
    """Close the storage's connections."""
    storage.remove_session()
    storage.engine.dispose()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's notes on what it calls experimental (heartbeats) and its line for every study."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed to be used with")
            yield
    finally:
        optuna.logging.set_verbosity(level)


@contextlib.contextmanager
def exclusive(storage: RDBStorage, study_name: str) -> Iterator[None]:
    """Let one process at a time change a study's queue; the lock goes with a process that dies.

    Taking a trial, adding trials and queueing lost ones again are several steps each. A worker that is killed between
    two of them leaves what the next one to enter can see and mend.
    """
    number = zlib.crc32(study_name.encode())
    if not is_shared(str(storage.url)):
        path = Path(urlsplit(str(storage.url)).path[1:]).absolute()
        with FileLock(path.with_name(f"{path.name}.{number:08x}.lock")):
            yield
        return
    key = {"one": _LOCK, "two": number - 2**31}
    with storage.engine.connect() as connection:
        connection.execute(text("select pg_advisory_lock(:one, :two)"), key)
        connection.commit()  # the lock is the session's; an open transaction would hold back the database's cleaning
        try:
            yield
        finally:
            with contextlib.suppress(SQLAlchemyError):  # a connection that was lost has lost its lock
                connection.execute(text("select pg_advisory_unlock(:one, :two)"), key)
                connection.commit()


@contextlib.contextmanager
def only_worker(url: str) -> Iterator[None]:
    """Hold a SQLite file as its one worker; a shared storage takes any number.

    Raises:
        InputError: another worker holds it.
    """
    if is_shared(url):
        yield
        return
    path = Path(urlsplit(url).path[1:]).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(path.name + ".worker"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        msg = (
            f"--storage: another worker is using {path}, and a SQLite file serves one at a time; wait for it, or use "
            "--storage postgresql://user@host/database for several"
        )
        raise InputError(msg) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def alive(storage: RDBStorage, trial_id: int) -> Iterator[None]:
    """Give a sign of life for a trial at every heartbeat; a storage that is away for a moment ends nothing."""
    ended = threading.Event()
    interval = storage.get_heartbeat_interval() or HEARTBEAT

    def beat() -> None:
        while not ended.wait(interval):
            with contextlib.suppress(Exception):  # the next one is due soon; telling the result will say what is wrong
                storage.record_heartbeat(trial_id)

    storage.record_heartbeat(trial_id)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
