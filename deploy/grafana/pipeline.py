"""From Kafka to Kafka and on to Redis: logic and dispatch."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import Dashboard, Panel, Query, Row
from deploy.grafana.queries import BY_NODE, DISPATCH, LOGIC, lines, quantiles, rate, total

PIPELINE: Final = Dashboard(
    "pipeline",
    "pipeline",
    (
        Row(
            "Logic",
            (
                Panel(
                    "Handled",
                    "Records by outcome.",
                    lines(rate("logic_handled_total", "outcome"), "{{outcome}}"),
                    "ops",
                ),
                Panel("Handlers", "Time in a handler.", quantiles("logic_handler_seconds"), "s"),
                Panel(
                    "Age",
                    "From Kafka until everything a record caused is durable.",
                    quantiles("logic_age_seconds"),
                    "s",
                    warn=5,
                ),
                Panel(
                    "In hand",
                    "Records fetched and not finished, by process.",
                    lines(total("logic_pending", "instance", LOGIC), BY_NODE),
                ),
                Panel(
                    "Going back",
                    "Handlers' retries, paused partitions, returns to what is durable.",
                    (
                        Query(rate("logic_retries_total"), "retries"),
                        Query(rate("logic_paused_total"), "paused"),
                        Query(rate("logic_rewinds_total"), "rewinds"),
                    ),
                    "ops",
                ),
                Panel(
                    "Published",
                    "Messages written to outbound, by whom.",
                    lines(rate("logic_published_total", "by"), "{{by}}"),
                    "ops",
                ),
                Panel(
                    "API calls",
                    "By status.",
                    lines(rate("logic_api_requests_total", "status"), "{{status}}"),
                    "ops",
                ),
                Panel("API time", "Of a call.", quantiles("logic_api_seconds"), "s"),
                Panel(
                    "API calls by route",
                    "Which calls.",
                    lines(rate("logic_api_requests_total", "route"), "{{route}}"),
                    "ops",
                ),
            ),
        ),
        Row(
            "Dispatch",
            (
                Panel(
                    "Lag",
                    "Messages of each partition that are not applied yet.",
                    lines("max by (partition) (holdfast_dispatch_lag{SELECT})", "{{partition}}"),
                    warn=5000,
                ),
                Panel(
                    "Partitions",
                    "Owned by each dispatcher; together all there are.",
                    lines(total("dispatch_partitions", "instance", DISPATCH), BY_NODE),
                ),
                Panel(
                    "Records",
                    "Applied, by outcome.",
                    lines(rate("dispatch_records_total", "outcome"), "{{outcome}}"),
                    "ops",
                ),
                Panel("Batch", "Records in one apply.", quantiles("dispatch_batch")),
                Panel(
                    "Apply",
                    "Time of one apply: one call to Redis.",
                    quantiles("dispatch_apply_seconds"),
                    "s",
                    warn=0.1,
                ),
                Panel(
                    "Pushed",
                    "Items handed to links.",
                    lines(rate("dispatch_pushed_total", "item"), "{{item}}"),
                    "ops",
                ),
                Panel(
                    "Links",
                    "Open links to access nodes, by dispatcher.",
                    lines(total("dispatch_links", "instance", DISPATCH), BY_NODE),
                ),
                Panel(
                    "Breaks and drops",
                    "Chains broken by why; bytes that nodes did not take.",
                    (
                        Query(rate("dispatch_breaks_total", "why"), "{{why}}"),
                        Query(rate("dispatch_dropped_total"), "bytes dropped"),
                    ),
                    "ops",
                ),
                Panel(
                    "Rebuilding",
                    "Shards being written again, and what led there.",
                    (
                        Query(total("dispatch_rebuilding"), "rebuilding"),
                        Query(rate("dispatch_rewinds_total"), "rewinds"),
                        Query(rate("dispatch_unjoined_total"), "logs that no longer join"),
                    ),
                ),
            ),
        ),
    ),
)
