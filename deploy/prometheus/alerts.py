"""Every alert but those of the objectives. `docs/runbook.md` has a section for each, under its name.

`page`: somebody gets up. `ticket`: somebody looks in working hours. What pages for a rate waits longer than
its window is: a failover of seconds, after which all is well, wakes nobody. Expressions are grouped by
`namespace`, so that two installations in one Prometheus do not hide each other.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

JOBS: Final = {role: f"holdfast-{role}" for role in ("access", "logic", "dispatch")}


class Alert(NamedTuple):
    """One alert. `hold` is how long the expression must be true, as Prometheus writes durations.

    It goes on firing for `linger` after its end: what follows from it, and is silenced by it, needs as long.
    """

    name: str
    severity: Literal["page", "ticket"]
    hold: str
    expression: str
    summary: str
    linger: str = ""


def _by(expression: str, *labels: str) -> str:
    return f"sum by ({', '.join(('namespace', *labels))}) ({expression})"


def _none_up(role: str) -> str:
    job = JOBS[role]
    return f'sum by (namespace) (up{{job="{job}"}}) == 0 or absent(up{{job="{job}"}})'


# A series that is new is no increase to Prometheus: the first dead letter of a reason is counted besides.
def _increase(metric: str, window: str = "10m") -> str:
    return _by(f"increase({metric}[{window}])") + " > 0"


ALERTS: Final = (
    # processes
    Alert(
        "HoldfastNoAccess",
        "page",
        "1m",
        _none_up("access"),
        "No access node answers: nobody can connect.",
        linger="5m",
    ),
    Alert(
        "HoldfastNoLogic",
        "page",
        "1m",
        _none_up("logic"),
        "No logic process answers: sends are acked but not handled, and the HTTP API is away.",
        linger="5m",
    ),
    Alert(
        "HoldfastNoDispatch",
        "page",
        "1m",
        _none_up("dispatch"),
        "No dispatcher answers: what is published waits in Kafka.",
        linger="5m",
    ),
    Alert(
        "HoldfastProcessDown",
        "ticket",
        "5m",
        'up{job=~"holdfast-.+"} == 0',
        "{{ $labels.job }} at {{ $labels.instance }} does not answer its metrics port.",
    ),
    Alert(
        "HoldfastVersionsMixed",
        "ticket",
        "2h",
        "count by (namespace) (count by (namespace, version) (holdfast_build_info)) > 1",
        "Processes of different versions run side by side: a roll-out stands still.",
    ),
    Alert(
        "HoldfastLoopStalled",
        "ticket",
        "10m",
        "histogram_quantile(0.99, sum by (namespace, job, instance, le) "
        "(rate(holdfast_loop_stall_seconds_bucket[5m]))) > 0.25",
        "The event loop of {{ $labels.instance }} is late by more than 250 ms at p99.",
    ),
    Alert(
        "HoldfastLoopFails",
        "ticket",
        "0m",
        _by("increase(holdfast_loop_failures_total[10m])", "loop") + " > 0",
        "The background loop {{ $labels.loop }} met an error that nobody expected, and went on.",
    ),
    # trust
    Alert(
        "HoldfastCertificateEnds",
        "ticket",
        "10m",
        "min by (namespace, part) (holdfast_tls_expires_seconds) - time() < 7 * 86400",
        "The certificate for {{ $labels.part }} ends within a week.",
    ),
    Alert(
        "HoldfastCertificateNotLoaded",
        "ticket",
        "5m",
        _by('increase(holdfast_tls_reloads_total{outcome="failed"}[5m])', "part") + " > 0",
        "A new certificate for {{ $labels.part }} cannot be used; the one before it stays.",
    ),
    Alert(
        "HoldfastKeysNotFetched",
        "ticket",
        "10m",
        _by('increase(holdfast_auth_jwks_fetches_total{outcome="failed"}[10m])')
        + " > 0 unless "
        + _by('increase(holdfast_auth_jwks_fetches_total{outcome="fetched"}[10m])')
        + " > 0",
        "The keys of tokens cannot be fetched: those that are known stay in use.",
    ),
    # access
    Alert(
        "HoldfastConnectionsNearLimit",
        "ticket",
        "5m",
        "sum by (namespace, instance) (holdfast_access_connections) "
        "> 0.85 * max by (namespace, instance) (holdfast_access_connections_limit)",
        "{{ $labels.instance }} holds more than 85 % of the connections it may.",
    ),
    Alert(
        "HoldfastReconnectStorm",
        "ticket",
        "5m",
        _by("rate(holdfast_access_accepts_total[2m])")
        + " > 0.02 * "
        + _by("holdfast_access_sessions")
        + " + 20",
        "Connections arrive at more than 2 % of all sessions a second.",
    ),
    Alert(
        "HoldfastClientsPutAside",
        "ticket",
        "10m",
        _by("holdfast_access_aside") + " > 0.02 * " + _by("holdfast_access_sessions") + " + 5",
        "More than 2 % of the clients do not read what they are sent.",
    ),
    Alert(
        "HoldfastRoutesForgotten",
        "ticket",
        "0m",
        _increase("holdfast_access_forgotten_total"),
        "A shard in Redis forgot what access nodes had written: Redis lost writes.",
    ),
    Alert(
        "HoldfastChainBreaks",
        "ticket",
        "15m",
        _by("rate(holdfast_access_breaks_total[5m])") + " > 1",
        "The chain of pushes breaks again and again: access nodes repair from the log all the time.",
    ),
    Alert(
        "HoldfastDeliveryPolls",
        "page",
        "2m",
        _by('rate(holdfast_access_polls_total{why="quiet"}[90s])') + " > 0.5",
        "Access nodes hear nothing of some partitions, and ask Redis once a second instead.",
    ),
    # logic
    Alert(
        "HoldfastLogicBehind",
        "page",
        "5m",
        "histogram_quantile(0.9, sum by (namespace, le) (rate(holdfast_logic_age_seconds_bucket[5m]))) > 5",
        "What clients send is handled more than 5 s after it was acked (p90).",
    ),
    Alert(
        "HoldfastLogicPaused",
        "ticket",
        "10m",
        _increase("holdfast_logic_paused_total", "5m"),
        "Logic pauses partitions: handlers do not keep up with what comes.",
    ),
    Alert(
        "HoldfastLogicRewinds",
        "ticket",
        "10m",
        _increase("holdfast_logic_rewinds_total", "5m"),
        "Logic goes back and handles again, over and over: its outputs cannot be written.",
    ),
    Alert(
        "HoldfastHandlersFail",
        "ticket",
        "10m",
        _by("rate(holdfast_logic_retries_total[5m])")
        + " > 0.05 * "
        + _by("rate(holdfast_logic_handled_total[5m])"),
        "More than 5 % of the runs of handlers are repetitions.",
    ),
    Alert(
        "HoldfastDeadLetters",
        "ticket",
        "0m",
        " or ".join(
            f"{_increase(metric)} or {_by(f'{metric} unless {metric} offset 10m')} > 0"
            for metric in ("holdfast_logic_dead_letters_total", "holdfast_dispatch_dead_letters_total")
        ),
        "Messages were put into the dead letters.",
    ),
    Alert(
        "HoldfastApiFails",
        "page",
        "5m",
        _by('rate(holdfast_logic_api_requests_total{status=~"5.."}[5m])')
        + " > 0.02 * "
        + _by("rate(holdfast_logic_api_requests_total[5m])"),
        "More than 2 % of the calls of the HTTP API fail.",
    ),
    # dispatch
    Alert(
        "HoldfastPartitionsUnowned",
        "page",
        "1m",
        "sum by (namespace) (holdfast_dispatch_partitions) < max by (namespace) (holdfast_bus_partitions)",
        "Some partitions have no dispatcher: their messages wait.",
    ),
    Alert(
        "HoldfastPartitionsContested",
        "ticket",
        "10m",
        "sum by (namespace) (holdfast_dispatch_partitions) > max by (namespace) (holdfast_bus_partitions) "
        'or sum by (namespace) (increase(holdfast_dispatch_claims_total{event="lost"}[10m])) > 10',
        "Dispatchers take partitions from each other: they do not agree on who is there.",
    ),
    Alert(
        "HoldfastDispatchLag",
        "page",
        "5m",
        "max by (namespace, partition) (holdfast_dispatch_lag) > 5000",
        "Partition {{ $labels.partition }} has more than 5000 messages that are not delivered.",
    ),
    Alert(
        "HoldfastShardRebuilding",
        "page",
        "5m",
        _by("holdfast_dispatch_rebuilding") + " > 0",
        "Shards have been rebuilding for 5 minutes: new subscribers of their channels wait.",
    ),
    Alert(
        "HoldfastShardRewound",
        "ticket",
        "0m",
        _increase("holdfast_dispatch_rewinds_total"),
        "Redis lost writes, and dispatch went back to write them again.",
    ),
    Alert(
        "HoldfastLogUnjoined",
        "page",
        "0m",
        _increase("holdfast_dispatch_unjoined_total", "1h"),
        "Kafka no longer has what Redis was made from: a topic was recreated, cut, or lost records.",
    ),
    Alert(
        "HoldfastPushesDropped",
        "ticket",
        "5m",
        _by("rate(holdfast_dispatch_dropped_total[5m])") + " > 0",
        "Pushes are dropped because an access node does not take them.",
    ),
    # what all stand on
    Alert(
        "HoldfastKafkaWritesFail",
        "page",
        "2m",
        _by("rate(holdfast_bus_produce_failed_total[90s])", "topic") + " > 0",
        "Records to {{ $labels.topic }} have unknown outcomes: Kafka does not answer in time.",
    ),
    Alert(
        "HoldfastKafkaBufferFull",
        "page",
        "2m",
        _by("rate(holdfast_bus_buffer_full_total[90s])") + " > 0",
        "Producers refuse records because Kafka takes them too slowly.",
    ),
    Alert(
        "HoldfastBacklogFull",
        "page",
        "2m",
        "max by (namespace, topic) (holdfast_bus_backlog_full) > 0",
        "More comes into {{ $labels.topic }} than is handled: senders are told to come back later.",
    ),
    Alert(
        "HoldfastRedisFails",
        "page",
        "2m",
        _by("rate(holdfast_log_call_failed_total[90s])")
        + " > 0.01 * "
        + _by("rate(holdfast_log_call_seconds_count[90s])"),
        "More than 1 % of the calls to Redis fail.",
    ),
    Alert(
        "HoldfastRedisSlow",
        "ticket",
        "10m",
        "histogram_quantile(0.99, sum by (namespace, le) "
        "(rate(holdfast_dispatch_apply_seconds_bucket[5m]))) > 0.1",
        "Applying a batch takes more than 100 ms at p99.",
    ),
    Alert(
        "HoldfastMembershipFails",
        "ticket",
        "5m",
        _by("rate(holdfast_directory_call_failed_total[2m])") + " > 0",
        "Calls to the membership store fail: everything goes on, and nobody sees who comes or goes.",
    ),
    Alert(
        "HoldfastMembershipDisagrees",
        "ticket",
        "5m",
        "max by (namespace, role) (holdfast_directory_nodes) "
        "> min by (namespace, role) (holdfast_directory_nodes)",
        "Processes see different numbers of {{ $labels.role }} nodes.",
    ),
)
