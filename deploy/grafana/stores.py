"""Kafka, Redis and Consul, by what their clients see."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import Dashboard, Panel, Query, Row
from deploy.grafana.queries import BY_NODE, lines, rate

STORES: Final = Dashboard(
    "stores",
    "Kafka, Redis and Consul as Holdfast sees them",
    (
        Row(
            "Kafka",
            (
                Panel(
                    "Durable",
                    "Records made durable, by topic.",
                    lines(rate("bus_produced_total", "topic"), "{{topic}}"),
                    "ops",
                ),
                Panel(
                    "Unknown outcomes",
                    "Records that were not answered in time. Zero is normal.",
                    lines(rate("bus_produce_failed_total", "topic"), "{{topic}}"),
                    "ops",
                ),
                Panel(
                    "Producers",
                    "Replaced after a failure; records refused for a full buffer.",
                    (
                        Query(rate("bus_producer_replaced_total"), "replaced"),
                        Query(rate("bus_buffer_full_total"), "refused: buffer full"),
                    ),
                    "ops",
                ),
                Panel(
                    "Backlog",
                    "Records that wait in a topic's most loaded partition.",
                    lines("max by (topic) (holdfast_bus_backlog{SELECT})", "{{topic}}"),
                ),
                Panel(
                    "Refused by a backlog",
                    "Sends, requests and publishes that were told to come back.",
                    lines(rate("bus_backlog_refused_total", "topic"), "{{topic}}"),
                    "ops",
                ),
            ),
        ),
        Row(
            "Redis",
            (
                Panel("Calls", "By kind.", lines(rate("log_call_seconds_count", "call"), "{{call}}"), "ops"),
                Panel(
                    "Time of a call",
                    "p99, by kind.",
                    lines(
                        "histogram_quantile(0.99, " + rate("log_call_seconds_bucket", "call, le") + ")",
                        "{{call}}",
                    ),
                    "s",
                ),
                Panel(
                    "Failed",
                    "Calls that failed, by kind.",
                    lines(rate("log_call_failed_total", "call"), "{{call}}"),
                    "ops",
                ),
                Panel(
                    "Records in a call",
                    "How well calls are used: records by apply.",
                    lines(rate("dispatch_batch_sum") + " / " + rate("dispatch_batch_count"), "mean"),
                ),
                Panel(
                    "Lost writes",
                    "Shards that forgot, were rewound, or rebuilt.",
                    (
                        Query(rate("access_forgotten_total"), "forgot a node"),
                        Query(rate("dispatch_rewinds_total"), "rewound"),
                        Query(rate("dispatch_rebuilds_total", "why"), "rebuilt: {{why}}"),
                    ),
                    "ops",
                ),
                Panel(
                    "Repeated applies",
                    "Whose outcome was unknown.",
                    lines(rate("dispatch_apply_retries_total"), "retries"),
                    "ops",
                ),
            ),
        ),
        Row(
            "Membership",
            (
                Panel(
                    "Changes",
                    "Of the membership, as each process saw them.",
                    lines(rate("directory_changes_total", "instance"), BY_NODE),
                    "ops",
                ),
                Panel(
                    "Nodes",
                    "By role, as each process sees them.",
                    lines(
                        "max by (role, instance) (holdfast_directory_nodes{SELECT})",
                        "{{role}} at {{instance}}",
                    ),
                ),
                Panel(
                    "Calls to Consul",
                    "Their time, p99, by kind.",
                    lines(
                        "histogram_quantile(0.99, " + rate("directory_call_seconds_bucket", "call, le") + ")",
                        "{{call}}",
                    ),
                    "s",
                ),
                Panel(
                    "Failed calls to Consul",
                    "By kind. Everything goes on without it, on the last known membership.",
                    lines(rate("directory_call_failed_total", "call"), "{{call}}"),
                    "ops",
                ),
            ),
        ),
    ),
)
