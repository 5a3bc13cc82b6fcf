"""Metrics, logging and health: what operators see of a process."""
