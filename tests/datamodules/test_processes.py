"""Loading processes that the shared memory has no room for are not started; freed memory is kept."""

import os
import resource
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest

from datamodules import processes
from datamodules.errors import InputError
from datamodules.processes import shared_memory_needed, workers_that_fit

MB = 10**6


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared memory of 64 MB, as containers have it."""
    status = SimpleNamespace(f_bavail=64_000, f_frsize=1000)
    monkeypatch.setattr(processes.os, "statvfs", lambda path: status)


@pytest.mark.usefixtures("free")
def test_processes_that_a_user_wants_are_refused_with_what_helps() -> None:
    with pytest.raises(InputError) as raised:
        workers_that_fit(2, 19 * MB, chosen=False)
    assert "--data.num_workers 0" in str(raised.value)
    assert "--shm-size 1g" in str(raised.value)
    assert "64 MB are free" in str(raised.value)


@pytest.mark.usefixtures("free")
def test_a_number_that_the_program_chose_is_lowered_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"8 loading processes need .* so 3 are used"):
        assert workers_that_fit(8, 4 * MB, chosen=True) == 3
    assert shared_memory_needed(3, 4 * MB) <= 64 * MB < shared_memory_needed(4, 4 * MB)


@pytest.mark.usefixtures("free")
def test_small_batches_and_no_processes_need_no_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert workers_that_fit(8, MB, chosen=True) == 8
        assert workers_that_fit(0, 10**12, chosen=False) == 0


def test_a_system_without_that_folder_is_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: object) -> os.statvfs_result:
        raise FileNotFoundError(path)

    monkeypatch.setattr(processes.os, "statvfs", missing)
    assert workers_that_fit(64, 10**12, chosen=False) == 64


FAULTS = """
import ctypes, resource, sys
from datamodules.processes import keep_freed_memory
if not keep_freed_memory() and sys.argv[1] == "keep":
    sys.exit("not glibc")
library = ctypes.CDLL("libc.so.6")
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for number in range(11):
    if number == 1:  # the first one is new in any case
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    place = library.malloc(ctypes.c_size_t(2**26))
    library.memset(place, 1, 2**26)
    library.free(place)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_kept_for_the_next_tensor() -> None:
    """Ten blocks of 64 MB, one after the other: the system hands out new pages for each, or for none."""
    faults = {}
    for keep in ("keep", "give"):
        variables = {} if keep == "keep" else {"MALLOC_TRIM_THRESHOLD_": "131072"}  # glibc's own value
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, keep],
            capture_output=True, text=True, check=False, env=os.environ | variables,
        )  # fmt: skip
        if "not glibc" in done.stderr:
            pytest.skip("this system's C library is not glibc, or an environment variable chooses an allocator")
        faults[keep] = int(done.stdout)
    pages = 10 * 2**26 / resource.getpagesize()
    assert faults["keep"] < 0.01 * pages
    assert faults["give"] > 0.9 * pages or faults["give"] > 10 * faults["keep"]  # fewer where pages are huge


@pytest.mark.parametrize("name", ["LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_ARENA_MAX"])
def test_an_allocator_that_the_user_chose_is_left_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("changed"))
    assert not processes.keep_freed_memory()


def test_another_system_has_no_such_option(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MALLOC_") or name in ("LD_PRELOAD", "GLIBC_TUNABLES")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not processes.keep_freed_memory()
