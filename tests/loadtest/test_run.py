"""A scenario on real parts: everything comes, and what does not come is noticed."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from deploy.local.cluster import LocalCluster
from loadtest import check, lost, report, scenario
from loadtest.run import Run
from loadtest.target import Target
from tests.unavailable import available

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        shutil.which("cc") is None and os.environ.get("CI") != "true", reason="a C compiler is needed"
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with available():
        running = LocalCluster(tmp_path_factory.mktemp("cluster"), access=2, logic=1, dispatch=1)
        running.start()
    yield running
    running.stop()


def small(*steps: scenario.Step) -> scenario.Scenario:
    crowds = [
        scenario.Crowd("pairs", 20, "peer"),
        scenario.Crowd("groups", 20, "group", 5),
        scenario.Crowd("rooms", 20, "room", 10),
    ]
    return scenario.Scenario("Small", "All kinds of channels.", crowds, [scenario.Open(), *steps])


async def test_everything_comes_once_and_in_order(cluster: LocalCluster, tmp_path: Path) -> None:
    """inv 4: of all kinds of channels, over a reconnect too; the record holds what the table shows."""
    wanted = small(
        scenario.Load(rate=60, seconds=2),
        scenario.Quiet(),  # one that is cut before its ack has none
        scenario.Cut(share=0.5),
        scenario.Publish(rate=100, seconds=1),
        scenario.Open(),
    )
    run = Run("small", wanted, Target.of_cluster(cluster.dir), tmp_path, say=lambda _: None)
    result = await run.run()
    assert result.problems == []
    assert result.counts["acked"] == result.counts["sent"] > 50
    assert result.counts["published"] == 100
    assert result.counts["recovered"] >= 30
    assert result.counts["unrecovered"] == 0
    assert result.summaries["message"]["count"] == result.counts["messages"]
    assert "once and in order" in report.table(result)
    assert (tmp_path / "out" / "result.json") in report.write(result, tmp_path / "out")


async def test_what_does_not_come_is_noticed(cluster: LocalCluster, tmp_path: Path) -> None:
    """A run in which half of all are away at the end says so, and what they did not get."""
    wanted = small(scenario.Cut(share=0.5), scenario.Publish(rate=60, seconds=1))
    run = Run("small", wanted, Target.of_cluster(cluster.dir), tmp_path, say=lambda _: None)
    run.last = 1.0
    result = await run.run()
    assert any("were to come" in problem for problem in result.problems)
    assert any("not open at the end" in problem for problem in result.problems)


def test_no_ratio_to_the_floor_has_become_worse(tmp_path: Path) -> None:
    """What `make bench-check` does; a machine that is too busy the first time is asked again."""
    if not check.worse(check.measure(tmp_path / "1")):
        return
    assert check.worse(check.measure(tmp_path / "2")) == []


async def test_nothing_acked_is_lost_with_redis(cluster: LocalCluster, tmp_path: Path) -> None:
    """inv 1, 4: killed and empty again, and each message comes once; a batch is one call before that."""
    took = await lost.measure(cluster, tmp_path / "lost", "lost", rate=200, seconds=1.0)
    assert took["acked"] > 300
    assert took["lost"] == took["wrong"] == 0
    assert took["calls"] == pytest.approx(1, abs=0.2)
