"""Worker process of the tests of the queue; its arguments are study, storage, task and settings."""

import json
import sys

from sweeps.workers import work

if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]), progress=False, heartbeat=1, grace=3)
