"""The logic service: runs the handlers and serves the HTTP API."""
