"""Panels and dashboards as Grafana's JSON has them."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

Unit = Literal["short", "s", "percentunit", "ops", "bytes", "Bps", "none"]

SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH: Final = 24


class Query(NamedTuple):
    """One line (or more, by `legend`) of a panel. `SELECT` in it stands for the chosen namespace."""

    expression: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel. `about` is what an operator reads when he points at its corner."""

    title: str
    about: str
    queries: tuple[Query, ...]
    unit: Unit = "short"
    kind: Literal["timeseries", "stat", "heatmap"] = "timeseries"
    width: int = 8
    warn: float | None = None
    """A line from which on the value is worth a look."""


class Row(NamedTuple):
    """A heading and its panels."""

    title: str
    panels: tuple[Panel, ...]


class Dashboard(NamedTuple):
    """One dashboard; its file is `name`.json."""

    name: str
    title: str
    rows: tuple[Row, ...]
    instances: str = ""
    """The job whose instances can be chosen; "": none can."""


def text(expression: str) -> str:
    """Return an expression as Grafana is to send it: within the chosen namespace."""
    return expression.replace("SELECT", 'namespace=~"$namespace"')


def render(dashboard: Dashboard) -> dict[str, Any]:
    """Return a dashboard as Grafana's JSON."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in dashboard.rows:
        panels.append(_row(len(panels) + 1, row.title, y))
        y += 1
        x = 0
        for panel in row.panels:
            height = 4 if panel.kind == "stat" else 8
            if x + panel.width > _WIDTH:
                x, y = 0, y + 8
            place = {"x": x, "y": y, "w": panel.width, "h": height}
            panels.append(_panel(len(panels) + 1, panel, place))
            x += panel.width
        y += 8 if any(panel.kind != "stat" for panel in row.panels) else 4
    return {
        "uid": f"holdfast-{dashboard.name}",
        "title": f"Holdfast: {dashboard.title}",
        "tags": ["holdfast"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "links": [
            {
                "type": "dashboards",
                "tags": ["holdfast"],
                "title": "Holdfast",
                "asDropdown": True,
                "keepTime": True,
            }
        ],
        "annotations": {"list": [_alerts()]},
        "templating": {"list": _variables(dashboard)},
        "panels": panels,
    }


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    chosen = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        _variable("namespace", "label_values(holdfast_build_info, namespace)"),
    ]
    if dashboard.instances:
        query = f'label_values(up{{job="{dashboard.instances}", namespace=~"$namespace"}}, instance)'
        chosen.append(_variable("instance", query))
    return chosen


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def _alerts() -> dict[str, Any]:
    return {
        "name": "alerts",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": text('ALERTS{alertname=~"Holdfast.+", alertstate="firing", SELECT}'),
        "titleFormat": "{{alertname}}",
        "textFormat": "{{severity}}",
    }


def _row(number: int, title: str, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": _WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": title, "gridPos": place, "collapsed": False, "panels": []}


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.warn is not None:
        steps.append({"color": "red", "value": panel.warn})
    custom: dict[str, Any] = {"fillOpacity": 8, "showPoints": "never", "spanNulls": False}
    if panel.warn is not None:
        custom["thresholdsStyle"] = {"mode": "line"}
    heat = panel.kind == "heatmap"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": text(query.expression),
                "legendFormat": query.legend or "__auto",
                "format": "heatmap" if heat else "time_series",
            }
            for index, query in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
                **({"custom": custom} if panel.kind == "timeseries" else {}),
            },
            "overrides": [],
        },
        "options": _options(panel),
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    if panel.kind == "heatmap":
        return {"calculate": False, "yAxis": {"unit": panel.unit}, "color": {"scheme": "Oranges"}}
    return {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
