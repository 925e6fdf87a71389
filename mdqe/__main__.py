"""`python -m mdqe`, for environments without the `mdqe` command on the path, and `torchrun -m mdqe`."""

import sys

from mdqe.cli import main

if __name__ == "__main__":
    sys.exit(main())
