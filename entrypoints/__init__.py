"""The project's commands: `python -m entrypoints.<name> --help`, from the project's folder.

`embedlab` is imported from `src`, beside this folder, and never installed, so that edits take
effect in whatever environment MLflow has created or reused.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
