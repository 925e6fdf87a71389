import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # tiny.py, which processes that tests start import too
