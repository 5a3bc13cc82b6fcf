"""One access node or all of them: connections, messages, bounds."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import Dashboard, Panel, Query, Row
from deploy.grafana.queries import BY_NODE, HERE, lines, quantiles, rate, total

ACCESS: Final = Dashboard(
    "access",
    "access nodes",
    (
        Row(
            "Connections",
            (
                Panel(
                    "Connections",
                    "Open connections of each node; the line is what it may have.",
                    (
                        Query(total("access_connections", "instance", HERE), BY_NODE),
                        Query(f"min (holdfast_access_connections_limit{{SELECT, {HERE}}})", "limit"),
                    ),
                ),
                Panel(
                    "Carriers",
                    "Open connections by carrier.",
                    lines(total("access_connections", "carrier", HERE), "{{carrier}}"),
                ),
                Panel(
                    "Subscriptions and channels",
                    "What local connections have subscribed.",
                    (
                        Query(total("access_subscriptions", "", HERE), "subscriptions"),
                        Query(total("access_channels", "", HERE), "channels"),
                    ),
                ),
                Panel(
                    "Accepts",
                    "Connections accepted, by node.",
                    lines(rate("access_accepts_total", "instance", HERE), BY_NODE),
                    "ops",
                ),
                Panel(
                    "Refused",
                    "Connections refused before a session, by reason.",
                    lines(rate("access_refused_total", "reason", HERE), "{{reason}}"),
                    "ops",
                ),
                Panel(
                    "Closes",
                    "Connections ended, by code.",
                    lines(rate("access_closes_total", "code", HERE), "{{code}}"),
                    "ops",
                ),
            ),
        ),
        Row(
            "Messages",
            (
                Panel(
                    "Frames in",
                    "From clients, by kind.",
                    lines(rate("access_frames_in_total", "frame", HERE), "{{frame}}"),
                    "ops",
                ),
                Panel(
                    "Frames out",
                    "To clients, by kind, but for messages.",
                    lines(rate("access_frames_out_total", "frame", HERE), "{{frame}}"),
                    "ops",
                ),
                Panel(
                    "Deliveries",
                    "Messages handed to connections, by node.",
                    lines(rate("access_deliveries_total", "instance", HERE), BY_NODE),
                    "ops",
                ),
                Panel(
                    "Subscribers of a message",
                    "How many local connections one message goes to.",
                    quantiles("access_fanout_size", HERE),
                ),
                Panel(
                    "Delivery",
                    "From Kafka to the connection.",
                    (Query(rate("access_delivery_seconds_bucket", "le", HERE), "{{le}}"),),
                    "s",
                    "heatmap",
                ),
                Panel(
                    "Send to ack",
                    "Durable in Kafka.",
                    (Query(rate("access_ack_seconds_bucket", "le", HERE), "{{le}}"),),
                    "s",
                    "heatmap",
                ),
                Panel(
                    "Send to message",
                    "From a client's send to its delivery here, one in eight.",
                    quantiles("access_message_seconds", HERE),
                    "s",
                ),
                Panel(
                    "Bytes",
                    "From and to clients.",
                    (
                        Query(rate("access_bytes_in_total", "", HERE), "in"),
                        Query(rate("access_bytes_out_total", "", HERE), "out"),
                    ),
                    "Bps",
                ),
                Panel(
                    "A crowd's fan-out",
                    "Until the last of more than 64 subscribers was written to.",
                    quantiles("access_fanout_seconds", HERE),
                    "s",
                ),
            ),
        ),
        Row(
            "Bounds and repairs",
            (
                Panel(
                    "Put aside",
                    "Connections that do not read; nothing is buffered for them.",
                    lines(total("access_aside", "instance", HERE), BY_NODE),
                ),
                Panel(
                    "Asked the log",
                    "By why: `quiet` is a partition without a dispatcher.",
                    lines(rate("access_polls_total", "why", HERE), "{{why}}"),
                    "ops",
                ),
                Panel(
                    "Chains broken",
                    "By node.",
                    lines(rate("access_breaks_total", "instance", HERE), BY_NODE),
                    "ops",
                ),
                Panel(
                    "Route updates",
                    "Changes in one update of a shard.",
                    quantiles("access_update_changes", HERE),
                ),
                Panel(
                    "Replies dropped",
                    "Their connection was gone, or nobody waited any more.",
                    lines(rate("access_replies_dropped_total", "instance", HERE), BY_NODE),
                    "ops",
                ),
                Panel(
                    "Loop stall",
                    "p99, by node.",
                    lines(
                        "histogram_quantile(0.99, "
                        + rate("loop_stall_seconds_bucket", "instance, le", HERE)
                        + ")",
                        BY_NODE,
                    ),
                    "s",
                    warn=0.25,
                ),
            ),
        ),
    ),
    instances="holdfast-access",
)
