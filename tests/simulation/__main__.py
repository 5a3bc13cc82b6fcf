"""`python -m tests.simulation --seed N`: replay one; `--seeds N`: search. See docs/simulation.md."""

import os
import sys

if os.environ.get("PYTHONHASHSEED") != "0":
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])

from tests.simulation.command import main

sys.exit(main(sys.argv[1:]))
