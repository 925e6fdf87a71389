import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for tiny.py, which subprocesses of tests import too
