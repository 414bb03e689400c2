"""A worker of the queue's tests: study, storage, task and folder come as arguments."""

import json
import sys

from sweeps.workers import work

if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]), progress=False, heartbeat=1, grace=3)
