"""Whether all is well, and where not."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import Dashboard, Panel, Query, Row
from deploy.grafana.queries import BY_NODE, lines, quantiles, rate, total
from deploy.prometheus.objectives import OBJECTIVES, ratio

CLUSTER: Final = Dashboard(
    "cluster",
    "cluster",
    (
        Row(
            "Now",
            (
                Panel(
                    "Sessions",
                    "Clients that are connected.",
                    lines(total("access_sessions"), ""),
                    "short",
                    "stat",
                    4,
                ),
                Panel(
                    "Sends a second",
                    "Messages from clients.",
                    lines(rate("access_frames_in_total", "", 'frame="send"'), ""),
                    "ops",
                    "stat",
                    4,
                ),
                Panel(
                    "Deliveries a second",
                    "Messages handed to connections.",
                    lines(rate("access_deliveries_total"), ""),
                    "ops",
                    "stat",
                    4,
                ),
                Panel(
                    "Delivery p99",
                    "From Kafka to the client's connection.",
                    quantiles("access_delivery_seconds")[2:],
                    "s",
                    "stat",
                    4,
                    0.5,
                ),
                Panel(
                    "Processes",
                    "Processes that answer.",
                    lines('sum (up{job=~"holdfast-.+", SELECT})', ""),
                    "short",
                    "stat",
                    4,
                ),
                Panel(
                    "Alerts",
                    "Alerts that fire.",
                    lines(
                        'count (ALERTS{alertname=~"Holdfast.+", alertstate="firing", SELECT}) or vector(0)',
                        "",
                    ),
                    "short",
                    "stat",
                    4,
                    1,
                ),
            ),
        ),
        Row(
            "Objectives",
            tuple(
                Panel(
                    f"{objective.name}: budget burn",
                    f"{objective.target:.2%} of {objective.about}. At 1 the budget lasts its 30 days.",
                    tuple(
                        Query(
                            f"max ({ratio(objective, window)}{{SELECT}}) / {1 - objective.target:.6g}", window
                        )
                        for window in ("5m", "1h", "6h", "3d")
                    ),
                    warn=1,
                )
                for objective in OBJECTIVES
            ),
        ),
        Row(
            "Flow",
            (
                Panel(
                    "Messages",
                    "The same messages on their way: what comes in, is handled, appended, delivered.",
                    (
                        Query(rate("access_frames_in_total", "", 'frame="send"'), "sent by clients"),
                        Query(rate("logic_handled_total"), "handled"),
                        Query(rate("dispatch_records_total"), "applied"),
                        Query(rate("access_deliveries_total"), "delivered"),
                    ),
                    "ops",
                ),
                Panel(
                    "Send to ack",
                    "From a send's arrival to its ack: durable in Kafka.",
                    quantiles("access_ack_seconds"),
                    "s",
                ),
                Panel(
                    "Handling",
                    "From Kafka until everything a message caused is durable.",
                    quantiles("logic_age_seconds"),
                    "s",
                ),
                Panel(
                    "Delivery",
                    "From Kafka to the clients' connections.",
                    quantiles("access_delivery_seconds"),
                    "s",
                    warn=0.5,
                ),
                Panel(
                    "Waiting",
                    "Messages that are not delivered yet, records in hand of logic.",
                    (
                        Query(total("dispatch_lag"), "dispatch: lag"),
                        Query(total("logic_pending"), "logic: in hand"),
                    ),
                ),
                Panel(
                    "Connections",
                    "Coming and going.",
                    (
                        Query(rate("access_accepts_total"), "accepted"),
                        Query(rate("access_closes_total", "code"), "closed: {{code}}"),
                    ),
                    "ops",
                ),
            ),
        ),
        Row(
            "Trouble",
            (
                Panel(
                    "Errors told to clients",
                    "By code; `unavailable` is ours, most others are theirs.",
                    lines(rate("access_errors_total", "code"), "{{code}}"),
                    "ops",
                ),
                Panel(
                    "Repairs",
                    "What the log was needed for. Some is normal when processes come and go.",
                    (
                        Query(rate("access_breaks_total"), "chains broken"),
                        Query(rate("access_gaps_total"), "gaps read"),
                        Query(rate("access_polls_total", "why"), "asked: {{why}}"),
                        Query(rate("access_forgotten_total"), "routes written again"),
                        Query(rate("dispatch_rewinds_total"), "rewinds"),
                    ),
                    "ops",
                ),
                Panel(
                    "Dead letters",
                    "Messages that could not be handled or placed.",
                    (
                        Query(rate("logic_dead_letters_total", "reason"), "logic: {{reason}}"),
                        Query(rate("dispatch_dead_letters_total", "reason"), "dispatch: {{reason}}"),
                    ),
                    "ops",
                ),
                Panel(
                    "Loop stall p99",
                    "By how much event loops are late.",
                    lines(
                        "histogram_quantile(0.99, " + rate("loop_stall_seconds_bucket", "instance, le") + ")",
                        BY_NODE,
                    ),
                    "s",
                    warn=0.25,
                ),
                Panel(
                    "Nodes seen",
                    "Every process should see the same numbers.",
                    (
                        Query("max by (role) (holdfast_directory_nodes{SELECT})", "{{role}}: most"),
                        Query("min by (role) (holdfast_directory_nodes{SELECT})", "{{role}}: fewest"),
                    ),
                ),
                Panel(
                    "Versions",
                    "Two during a roll-out, one otherwise.",
                    lines("count by (version) (holdfast_build_info{SELECT})", "{{version}}"),
                ),
            ),
        ),
    ),
)
