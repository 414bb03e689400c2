"""A further worker of a search on this machine: takes what a search it is told by name has left to do."""

import json
import sys

from sweeps.queue import work

TASK = "sweeps.search_trial:run_trial"


def main(name: str) -> int:
    """Work until nothing is left.

    The address of the storage comes in the environment, where `ps` does not show it, and what a trial needs to know
    on standard input: not from the study, since on another machine the data may lie elsewhere.
    """
    work(name, None, TASK, json.load(sys.stdin), progress=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
