"""Writes the rule files: `python -m deploy.prometheus.generate`.

`holdfast.rules.yml` is for a Prometheus of one's own; what its operator reads is in deploy/k8s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from deploy.prometheus import objectives
from deploy.prometheus.alerts import ALERTS
from deploy.tools.yaml import dump

HERE: Final = Path(__file__).parent
NOTE: Final = "# Made by `make rules` from deploy/prometheus/{alerts,objectives}.py; change it there.\n"
RUNBOOK: Final = "docs/runbook.md"


def groups() -> list[dict[str, Any]]:
    """Return the rule groups."""
    alerts = [*objectives.alerts(), *ALERTS]
    return [
        {
            "name": "holdfast-objectives",
            "rules": [{"record": name, "expr": expression} for name, expression in objectives.recordings()],
        },
        {
            "name": "holdfast-alerts",
            "rules": [
                {
                    "alert": alert.name,
                    "expr": alert.expression,
                    "for": alert.hold,
                    **({"keep_firing_for": alert.linger} if alert.linger else {}),
                    "labels": {"severity": alert.severity},
                    "annotations": {
                        "summary": alert.summary,
                        "runbook": f"{RUNBOOK}#{alert.name.lower()}",
                    },
                }
                for alert in alerts
            ],
        },
    ]


def files() -> dict[Path, str]:
    """Return every file and what belongs into it."""
    operator = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "holdfast"},
        "spec": {"groups": groups()},
    }
    return {
        HERE / "holdfast.rules.yml": NOTE + dump({"groups": groups()}),
        HERE.parent / "k8s" / "components" / "monitoring" / "rules.yaml": NOTE + dump(operator),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
