"""A further worker of a search on this machine: takes what a search it is told by name has left to do."""

import sys

import optuna

from sweeps.queue import work
from sweeps.storage import close, open_storage

SETTINGS = "settings"  # the study's attribute that holds what its trials are
TASK = "sweeps.search_trial:run_trial"


def main(name: str) -> int:
    """Work until nothing is left; the address of the storage comes in the environment, where `ps` does not show it."""
    storage = open_storage()
    settings = optuna.load_study(study_name=name, storage=storage).user_attrs[SETTINGS]
    close(storage)
    work(name, None, TASK, settings, progress=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
