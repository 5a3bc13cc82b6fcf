from holdfast.process import main

from .service import build

main("dispatch", build)
