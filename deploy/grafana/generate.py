"""Writes the dashboards: `python -m deploy.grafana.generate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from deploy.grafana.dashboards import DASHBOARDS
from deploy.grafana.panels import render

HERE: Final = Path(__file__).parent


def files() -> dict[Path, str]:
    """Return every file and what belongs into it."""
    return {
        HERE / f"{dashboard.name}.json": json.dumps(render(dashboard), indent=1) + "\n"
        for dashboard in DASHBOARDS
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
