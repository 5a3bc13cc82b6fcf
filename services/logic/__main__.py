"""`python -m services.logic`: one logic process, by the settings."""

from holdfast.process import main

from .service import build

main("logic", build)
