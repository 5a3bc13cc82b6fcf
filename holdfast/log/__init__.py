"""Channels as logs, routes and sessions: a port, and its Redis and memory adapters."""
