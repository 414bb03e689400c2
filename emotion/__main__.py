"""`python -m emotion`."""

import sys

from emotion.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
