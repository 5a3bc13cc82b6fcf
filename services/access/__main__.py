"""Run an access node: `python -m services.access`."""

from holdfast.process import main

from .service import build

if __name__ == "__main__":
    main("access", build)
