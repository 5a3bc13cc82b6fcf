"""Grafana dashboards, made from code: what is shown is a table, how it is shown is one place."""
