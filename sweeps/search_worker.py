"""A further worker of a search on this machine: takes what a search it is told by name has left to do."""

import json
import sys

from sweeps.workers import one_line, work

TRIAL_TASK = "sweeps.search:run_trial"


def main(name: str, task: str = TRIAL_TASK) -> int:
    """Run trials until none is left; on an error print one line on stderr and return 1.

    The address of the storage comes in the environment, where `ps` does not show it, and what a trial needs to know
    on standard input: not from the study, since on another machine the data may lie elsewhere.
    """
    try:
        work(name, None, task, json.load(sys.stdin), progress=False)
    except Exception as error:
        print(f"error: a worker of search {name} failed: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
