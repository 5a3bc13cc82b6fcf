"""Holdfast: long connections at scale, and messages that are never lost, doubled or reordered."""

__version__ = "0.1.0"
