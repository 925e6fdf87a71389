"""Runs the code of one page in the current folder: `python run_page.py PAGE`.

Python blocks share one namespace. A shell block stops at the first command that fails. If a package is missing, the
last line of output names it.
"""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from doc_pages import blocks, run_python

names: dict = {"__name__": "__main__"}
for block in blocks(Path(sys.argv[1])):
    if block.reason:
        continue
    print(f"{block.page.name}:{block.line}", file=sys.stderr, flush=True)
    if block.language == "python":
        try:
            run_python(block, names)
        except ImportError as error:
            sys.exit(f"missing: {error}" if error.name is None else f"missing: {error.name}: {error}")
    else:
        if block.before:
            exec(block.before, names)
        code = block.code.replace("$ ", "") if block.code.startswith("$ ") else block.code
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
