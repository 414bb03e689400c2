"""The list of faults for `make faults` fits the code: every fault can still be put into its file."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _faults() -> ModuleType:
    spec = importlib.util.spec_from_file_location("faults", Path(__file__).with_name("faults.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["faults"] = module
    spec.loader.exec_module(module)
    return module


faults = _faults()


@pytest.mark.parametrize("number", range(1, len(faults.FAULTS) + 1))
def test_a_fault_fits_its_file(number: int) -> None:
    fault = faults.FAULTS[number - 1]
    text = faults.faulty_text(number)  # fails unless the old text occurs exactly once
    assert text != (faults.ROOT / fault.file).read_text(encoding="utf-8")
    compile(text, fault.file, "exec")
    assert [test for test in fault.tests if not (faults.ROOT / test.partition("::")[0]).is_file()] == []


def test_there_are_thirty_different_faults() -> None:
    assert len({(fault.file, fault.old, fault.new) for fault in faults.FAULTS}) == len(faults.FAULTS) == 30


def test_a_fault_that_no_longer_fits_is_named(tmp_path: Path) -> None:
    fault = faults.FAULTS[0]
    file = tmp_path / fault.file
    file.parent.mkdir(parents=True)
    file.write_text(f"{fault.old}\n{fault.old}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"fault 1 .*exactly once in {fault.file}, it occurs 2 times"):
        faults.faulty_text(1, tmp_path)
