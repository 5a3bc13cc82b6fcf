"""Real servers on this machine, found or installed, and a local cluster of real processes on them.

Used by `make test`, `make cluster` and the end-to-end tests; services know nothing of it.
"""
