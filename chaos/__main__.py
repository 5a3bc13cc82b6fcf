"""`python -m chaos`: what `make chaos` runs."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from pathlib import Path

import uvloop

from chaos.run import Options, Run
from deploy.local.process import Unavailable


def main() -> int:
    """Run the command line: 0 when every promise was kept, 1 when one was broken, 2 when there was no run."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__import__("chaos").__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="of faults (default: 30)")
    parser.add_argument("--baseline", type=float, default=20.0, help="seconds without faults before (20)")
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="of the schedule (default: another)"
    )
    parser.add_argument("--brokers", type=int, default=3, help="of Kafka (default: 3)")
    parser.add_argument("--load", type=float, default=0.3, help="1 is a hundred people (default: 0.3)")
    parser.add_argument(
        "--only", default="", help="kinds of faults by how they begin: kill,cut access to redis"
    )
    parser.add_argument("--dir", default="", help="the run's folder (default: run/chaos/SEED)")
    parser.add_argument("--keep", action="store_true", help="keep the data of Kafka, too")
    options = parser.parse_args()
    folder = Path(options.dir or f"run/chaos/{options.seed}").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run = Run(
        Options(
            seed=options.seed,
            seconds=options.minutes * 60,
            baseline=options.baseline,
            brokers=options.brokers,
            load=options.load,
            only=options.only,
        ),
        folder,
    )
    print(f"seed {options.seed}", flush=True)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            kept = runner.run(run.go(lambda text: print(text, flush=True)))
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 2
    if not options.keep:
        for data in folder.glob("cluster/kafka*/data"):
            shutil.rmtree(data, ignore_errors=True)
    print("every promise was kept" if kept else f"a promise was broken; logs are in {folder}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
