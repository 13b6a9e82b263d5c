"""The project's commands: `python -m entrypoints.<name> --help`, from the project's folder.

The package is found beside this folder, in `src`, and never installed, so an edited file is what
runs, whatever environment MLflow has made or kept.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
