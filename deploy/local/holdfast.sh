#!/bin/sh
# The `holdfast` command of a checkout: `make` puts it into .venv/bin.
here=$(cd "$(dirname "$0")/../.." && pwd)
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "$here/.venv/bin/python" -m holdfast.cli "$@"
