"""For each alert, series of one value a minute: some with which it fires, some with which it does not."""

from __future__ import annotations

from typing import NamedTuple

Series = dict[str, str]
"""Series -> values in promtool's notation: `0+6x30` is 0, 6, 12 … 30 times."""

H = "holdfast_"


class Case(NamedTuple):
    """One alert; `minutes` is when it is looked at."""

    alert: str
    bad: Series
    good: Series
    minutes: int = 30
    severity: str = ""


def _up(role: str, *values: str) -> Series:
    return {f'up{{job="holdfast-{role}", instance="{number}"}}': value for number, value in enumerate(values)}


def _grows(metric: str, step: float, labels: str = "", minutes: int = 60) -> Series:
    return {f"{H}{metric}{{{labels}}}": f"0+{step:g}x{minutes}"}


def _flat(metric: str, value: float, labels: str = "") -> Series:
    return {f"{H}{metric}{{{labels}}}": f"{value:g}x60"}


def _histogram(metric: str, slow: bool, bound: str, labels: str = "") -> Series:
    more = f", {labels}" if labels else ""
    fast = 0 if slow else 60
    return {
        f'{H}{metric}_bucket{{le="{bound}"{more}}}': f"0+{fast}x60",
        f'{H}{metric}_bucket{{le="10"{more}}}': "0+60x60",
        f'{H}{metric}_bucket{{le="+Inf"{more}}}': "0+60x60",
    }


def _jumps(metric: str, labels: str = "") -> tuple[Series, Series]:
    """Nothing for 25 minutes and then one; and nothing at all."""
    series = f"{H}{metric}{{{labels}}}"
    return {series: "0x25 1x40"}, {series: "1x60"}


def _blip(metric: str, count: int, labels: str) -> Series:
    """So many within one minute, two minutes before it is looked at."""
    return {f"{H}{metric}{{{labels}}}": f"0x27 {count}x40"}


def _burn(bad: str, total: str, labels: tuple[str, str], allowed: float, alert: str) -> list[Case]:
    """Burn 20 times too fast: a page. 4 times: a ticket, no page. Slowly: nothing."""
    # Windows longer than the series are as if they were that short: what counts is a ratio.

    def at(factor: float, hours: int) -> Series:
        steps, each = hours * 60, 6000.0
        return _grows(bad, each * allowed * factor, labels[0], steps) | _grows(total, each, labels[1], steps)

    return [
        Case(alert, at(20, 2), at(0.5, 2), 120, "page"),
        Case(alert, at(4, 3), at(0.5, 3), 180, "ticket"),
        Case(alert, at(20, 3), at(4, 3), 180, "page"),
    ]


def _delivery() -> list[Case]:
    """The same for what is counted in buckets."""

    def at(factor: float, hours: int) -> Series:
        steps = hours * 60
        return _grows("access_delivery_seconds_count", 6000, "", steps) | _grows(
            "access_delivery_seconds_bucket", 6000 * (1 - 0.001 * factor), 'le="0.5"', steps
        )

    return [
        Case("HoldfastDeliverySlow", at(20, 2), at(0.5, 2), 120, "page"),
        Case("HoldfastDeliverySlow", at(4, 3), at(0.5, 3), 180, "ticket"),
        Case("HoldfastDeliverySlow", at(20, 3), at(4, 3), 180, "page"),
    ]


_RETRIES = _grows("logic_handled_total", 600)
_CALLS = _grows("log_call_seconds_count", 6000, 'call="apply"')
_MANY = _flat("access_sessions", 1000)

CASES = [
    *_delivery(),
    *_burn(
        "access_errors_total",
        "access_frames_in_total",
        ('code="unavailable"', 'frame="send"'),
        0.0005,
        "HoldfastSendsUnacked",
    ),
    *_burn(
        "access_refused_total",
        "access_frames_in_total",
        ('reason="overloaded"', 'frame="connect"'),
        0.001,
        "HoldfastConnectsRefused",
    ),
    # Refused before a frame came, and nothing else: no share of nothing, but the worst there is.
    Case(
        "HoldfastConnectsRefused",
        _grows("access_refused_total", 60, 'reason="connections"'),
        _grows("access_refused_total", 60, 'reason="per_address"'),
        severity="page",
    ),
    *(
        Case(f"HoldfastNo{role.title()}", _up(role, "0x60", "0x60"), _up(role, "0x60", "1x60"))
        for role in ("access", "logic", "dispatch")
    ),
    *(Case(f"HoldfastNo{role.title()}", {}, _up(role, "1x60")) for role in ("access", "logic", "dispatch")),
    Case("HoldfastProcessDown", _up("access", "1x60", "0x60"), _up("access", "1x60", "1x28 0x60")),
    Case(
        "HoldfastVersionsMixed",
        {f'{H}build_info{{version="{number}", instance="{number}"}}': "1x200" for number in (1, 2)},
        {f'{H}build_info{{version="1", instance="{number}"}}': "1x200" for number in (1, 2)},
        180,
    ),
    Case(
        "HoldfastLoopStalled",
        _histogram("loop_stall_seconds", True, "0.25", 'instance="a"'),
        _histogram("loop_stall_seconds", False, "0.1", 'instance="a"'),
    ),
    Case("HoldfastLoopFails", *_jumps("loop_failures_total", 'loop="beats"')),
    Case(
        "HoldfastCertificateEnds",
        _flat("tls_expires_seconds", 6 * 86_400, 'part="access"'),
        _flat("tls_expires_seconds", 8 * 86_400, 'part="access"'),
    ),
    Case(
        "HoldfastCertificateNotLoaded",
        _grows("tls_reloads_total", 60, 'part="access", outcome="failed"'),
        _grows("tls_reloads_total", 1, 'part="access", outcome="loaded"'),
    ),
    Case(
        "HoldfastKeysNotFetched",
        _grows("auth_jwks_fetches_total", 6, 'outcome="failed"'),
        _grows("auth_jwks_fetches_total", 6, 'outcome="failed"')
        | _grows("auth_jwks_fetches_total", 1, 'outcome="fetched"'),
    ),
    Case(
        "HoldfastConnectionsNearLimit",
        {
            **_flat("access_connections", 4500, 'instance="a", carrier="websocket"'),
            **_flat("access_connections", 4500, 'instance="a", carrier="tcp"'),
            **_flat("access_connections_limit", 10_000, 'instance="a"'),
        },
        {
            **_flat("access_connections", 8000, 'instance="a", carrier="websocket"'),
            **_flat("access_connections_limit", 10_000, 'instance="a"'),
        },
    ),
    Case(
        "HoldfastReconnectStorm",
        _MANY | _grows("access_accepts_total", 50 * 60, 'carrier="websocket"'),
        _MANY | _grows("access_accepts_total", 30 * 60, 'carrier="websocket"'),
    ),
    Case("HoldfastClientsPutAside", _MANY | _flat("access_aside", 40), _MANY | _flat("access_aside", 20)),
    Case("HoldfastRoutesForgotten", *_jumps("access_forgotten_total")),
    Case(
        "HoldfastChainBreaks",
        _grows("access_breaks_total", 120),
        _jumps("access_breaks_total")[0],
        minutes=40,
    ),
    Case(  # seconds of it are over before anybody is woken
        "HoldfastDeliveryPolls",
        _grows("access_polls_total", 60, 'why="quiet"'),
        _blip("access_polls_total", 900, 'why="quiet"'),
    ),
    Case(
        "HoldfastDeliveryPolls",
        _grows("access_polls_total", 60, 'why="quiet"'),
        _grows("access_polls_total", 60, 'why="break"'),
    ),
    Case(
        "HoldfastLogicBehind",
        _histogram("logic_age_seconds", True, "5"),
        _histogram("logic_age_seconds", False, "5"),
    ),
    Case("HoldfastLogicPaused", _grows("logic_paused_total", 1), _jumps("logic_paused_total")[0], 40),
    Case("HoldfastLogicRewinds", _grows("logic_rewinds_total", 1), _jumps("logic_rewinds_total")[0], 40),
    Case(
        "HoldfastHandlersFail",
        _RETRIES | _grows("logic_retries_total", 60),
        _RETRIES | _grows("logic_retries_total", 6),
    ),
    Case("HoldfastDeadLetters", *_jumps("logic_dead_letters_total", 'reason="failed"')),
    Case("HoldfastDeadLetters", *_jumps("dispatch_dead_letters_total", 'reason="partition"')),
    Case(  # the first of its reason: the series begins with it
        "HoldfastDeadLetters",
        {f'{H}logic_dead_letters_total{{reason="undecodable"}}': "_x24 1x35"},
        {f'{H}logic_dead_letters_total{{reason="undecodable"}}': "1x60"},
    ),
    Case(
        "HoldfastApiFails",
        _grows("logic_api_requests_total", 60, 'status="200"')
        | _grows("logic_api_requests_total", 6, 'status="503"'),
        _grows("logic_api_requests_total", 60, 'status="200"')
        | _grows("logic_api_requests_total", 60, 'status="400"'),
    ),
    Case(
        "HoldfastPartitionsUnowned",
        _flat("dispatch_partitions", 11) | _flat("bus_partitions", 12),
        _flat("dispatch_partitions", 12) | _flat("bus_partitions", 12),
    ),
    Case(
        "HoldfastPartitionsContested",
        _flat("dispatch_partitions", 13) | _flat("bus_partitions", 12),
        _flat("dispatch_partitions", 12) | _flat("bus_partitions", 12),
    ),
    Case(
        "HoldfastPartitionsContested",
        _grows("dispatch_claims_total", 2, 'event="lost"'),
        _grows("dispatch_claims_total", 2, 'event="claimed"'),
    ),
    Case(
        "HoldfastDispatchLag",
        _flat("dispatch_lag", 6000, 'partition="3"'),
        _flat("dispatch_lag", 4000, 'partition="3"') | _flat("dispatch_lag", 4000, 'partition="4"'),
    ),
    Case("HoldfastShardRebuilding", _flat("dispatch_rebuilding", 1), _flat("dispatch_rebuilding", 0)),
    Case("HoldfastShardRewound", *_jumps("dispatch_rewinds_total")),
    Case("HoldfastLogUnjoined", *_jumps("dispatch_unjoined_total")),
    Case("HoldfastPushesDropped", _grows("dispatch_dropped_total", 9), _flat("dispatch_dropped_total", 9)),
    Case(  # seconds of it are over before anybody is woken
        "HoldfastKafkaWritesFail",
        _grows("bus_produce_failed_total", 3, 'topic="inbound"'),
        _blip("bus_produce_failed_total", 900, 'topic="inbound"'),
    ),
    Case(
        "HoldfastKafkaWritesFail",
        _grows("bus_produce_failed_total", 3, 'topic="inbound"'),
        _flat("bus_produce_failed_total", 3, 'topic="inbound"'),
    ),
    Case("HoldfastKafkaBufferFull", _grows("bus_buffer_full_total", 3), _flat("bus_buffer_full_total", 3)),
    Case(
        "HoldfastBacklogFull",
        _flat("bus_backlog_full", 1, 'topic="inbound"'),
        _flat("bus_backlog_full", 0, 'topic="inbound"'),
    ),
    Case(  # seconds of it are over before anybody is woken
        "HoldfastRedisFails",
        _CALLS | _grows("log_call_failed_total", 120, 'call="apply"'),
        _CALLS | _blip("log_call_failed_total", 900, 'call="apply"'),
    ),
    Case(
        "HoldfastRedisFails",
        _CALLS | _grows("log_call_failed_total", 120, 'call="apply"'),
        _CALLS | _grows("log_call_failed_total", 30, 'call="apply"'),
    ),
    Case(
        "HoldfastRedisSlow",
        _histogram("dispatch_apply_seconds", True, "0.1"),
        _histogram("dispatch_apply_seconds", False, "0.1"),
    ),
    Case(
        "HoldfastMembershipFails",
        _grows("directory_call_failed_total", 6, 'call="read"'),
        _flat("directory_call_failed_total", 6, 'call="read"'),
    ),
    Case(
        "HoldfastMembershipDisagrees",
        {f'{H}directory_nodes{{role="access", instance="{n}"}}': f"{n}x60" for n in (2, 3)},
        {f'{H}directory_nodes{{role="access", instance="{n}"}}': "3x60" for n in (2, 3)},
    ),
]
