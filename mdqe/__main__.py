"""`python -m mdqe`: the command where it is not on the path, and for `torchrun -m mdqe`."""

import sys

from mdqe.cli import main

if __name__ == "__main__":
    sys.exit(main())
