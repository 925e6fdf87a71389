"""`python -m mdqe.train`: `mdqe train` as a module, for `torchrun -m mdqe.train …`."""

import sys

from mdqe.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
