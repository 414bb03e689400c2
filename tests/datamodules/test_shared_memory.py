"""Loading processes for whose batches the shared memory has no room are not started."""

import os
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
