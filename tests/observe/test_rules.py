"""The rules: known to Prometheus, about metrics that exist, each alert firing when it should and not else."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.local import cache
from deploy.prometheus import generate, objectives
from deploy.prometheus.alerts import ALERTS
from holdfast.observe.metrics import TABLE
from tests.observe.cases import CASES

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "holdfast.rules.yml"
ALL = [*objectives.alerts(), *ALERTS]


def test_the_files_are_what_the_code_makes() -> None:
    """`make rules` was run after the last change of the rules."""
    for path, text in generate.files().items():
        assert path.read_text() == text, path.name


def unknown(expression: str) -> set[str]:
    """Return the metrics and labels of an expression that no process has."""
    names = set(re.findall(r"\bholdfast_\w+", re.sub(r"namespace:\w+", "", expression)))
    known = {f"holdfast_{metric.name}{suffix}" for metric in TABLE for suffix in _suffixes(metric.kind)}
    labels = set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|=|!=|!~)", expression))
    labels |= {label for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(", ")}
    fine = {"namespace", "job", "instance", "le", "pod"} | {label for row in TABLE for label in row.labels}
    return (names - known) | (labels - fine)


def _suffixes(kind: str) -> tuple[str, ...]:
    return {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}[kind]


def test_rules_are_about_metrics_that_exist() -> None:
    """Every metric and label is in the table of metrics; a misspelt one is noticed."""
    for expression in [alert.expression for alert in ALL] + [text for _, text in objectives.recordings()]:
        assert not unknown(expression), expression
    assert unknown('rate(holdfast_access_accepts{carriers="x"}[1m])') == {
        "holdfast_access_accepts",
        "carriers",
    }


def test_each_alert_has_a_section_of_the_runbook() -> None:
    """Whoever is woken finds the alert's name as a heading, and no others."""
    headings = set(re.findall(r"^### (Holdfast\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE))
    assert headings == {alert.name for alert in ALL}


def test_the_runbook_speaks_of_metrics_and_alerts_that_exist() -> None:
    """Metrics are named without `holdfast_`; links within the page lead to sections."""
    text = (ROOT / "docs/runbook.md").read_text()
    guide = (ROOT / "docs/metrics-guide.md").read_text()
    named = re.findall(r"`((?:access|logic|dispatch|bus|log|directory|loop)_\w+)[`{]", text)
    known = {f"{metric.name}{suffix}" for metric in TABLE for suffix in ("", *_suffixes(metric.kind))}
    named += re.findall(r"`((?:access|logic|dispatch|bus|log|directory|loop)_\w+)[`{]", guide)
    assert len(named) > 40
    assert set(named) <= known
    sections = {heading.lower() for heading in re.findall(r"^### (\w+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\(#(\w+)\)", text)) <= sections


def test_each_alert_has_cases() -> None:
    """No alert is untested."""
    assert {case.alert for case in CASES} == {alert.name for alert in ALL}


@pytest.mark.tools
@pytest.mark.timeout(120)
def test_each_alert_fires_when_it_should_and_not_else(tmp_path: Path) -> None:
    """`promtool check rules` takes the file, and `promtool test rules` agrees with every case.

    Each case has a namespace of its own, so that all fit into one run, and none may disturb another.
    """
    promtool = cache.program("promtool", "promtool", "prometheus")
    series: dict[str, str] = {}
    expected: list[dict[str, Any]] = []
    for number, case in enumerate(case for case in CASES if case.bad):
        for kind, values in (("bad", case.bad), ("good", case.good)):
            series |= {_within(f"{kind}{number}", name): value for name, value in values.items()}
        query = _firing(case.alert, case.severity, f"bad{number}|good{number}")
        samples = [{"labels": f'{{namespace="bad{number}"}}', "value": 1}]
        expected.append({"expr": query, "eval_time": f"{case.minutes}m", "exp_samples": samples})
    tests = [_test(series, expected)]
    # Where there is nothing at all, that is the same as all being down.
    nothing = [case.alert for case in CASES if not case.bad]
    silent = [
        {"expr": _firing(alert, "", ""), "eval_time": "30m", "exp_samples": [{"labels": "{}", "value": 1}]}
        for alert in nothing
    ]
    tests.append(_test({}, silent))
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(file)]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def _test(series: dict[str, str], expected: list[dict[str, Any]]) -> dict[str, Any]:
    given = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": given, "promql_expr_test": expected}


def _within(namespace: str, series: str) -> str:
    name, _, labels = series.rstrip("}").partition("{")
    return f'{name}{{namespace="{namespace}", {labels}}}'.replace(", }", "}")


def _firing(alert: str, severity: str, namespaces: str) -> str:
    more = f', severity="{severity}"' if severity else ""
    labels = f'alertname="{alert}", alertstate="firing", namespace=~"{namespaces}"{more}'
    return f"count by (namespace) (ALERTS{{{labels}}}) > bool 0"
