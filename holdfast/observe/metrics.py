"""Every metric: one table, from which the registry of a process and `docs/metrics.md` are made."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest

from holdfast.observe.instruments import Counter, Gauge, Histogram

Kind = Literal["counter", "gauge", "histogram"]

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


class Metric(NamedTuple):
    """One metric. `name` is also its attribute on `Metrics`; `labels` have few values each, all known."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


TABLE: Final = (
    # access
    Metric("access_connections", "gauge", "open connections", ("carrier",)),
    Metric("access_connections_limit", "gauge", "open connections that this process may have"),
    Metric("access_sessions", "gauge", "sessions: connections whose connect was accepted"),
    Metric("access_subscriptions", "gauge", "subscriptions of local connections"),
    Metric("access_channels", "gauge", "channels with a local subscriber"),
    Metric("access_accepts", "counter", "connections accepted", ("carrier",)),
    Metric("access_refused", "counter", "connections refused before a session", ("reason",)),
    Metric("access_closes", "counter", "connections ended, by code", ("code",)),
    Metric("access_frames_in", "counter", "frames from clients", ("frame",)),
    Metric(
        "access_controls", "counter", "control frames of WebSockets: pings and pongs of the carrier itself"
    ),
    Metric("access_bytes_in", "counter", "bytes from clients, as they came by their carriers"),
    Metric(
        "access_bytes_out",
        "counter",
        "bytes of frames written to clients; of a crowd with several formats, about",
    ),
    Metric("access_reads_sliced", "counter", "reads too large for one turn of the loop"),
    Metric("access_reads_put_off", "counter", "reads taken in a later turn of the loop: too many came"),
    Metric("access_frames_out", "counter", "frames to clients", ("frame",)),
    Metric("access_errors", "counter", "error frames to clients", ("code",)),
    Metric("access_deliveries", "counter", "messages handed to connections"),
    Metric("access_unreadable", "counter", "messages and replies that are no JSON, for clients of msgpack"),
    Metric("access_resets", "counter", "resets: subscribers told that the continuity of a channel is broken"),
    Metric("access_cursors", "counter", "cursors of clients, by outcome", ("outcome",)),
    Metric("access_channels_refused", "counter", "joins refused: the node has all channels it can serve"),
    Metric(
        "access_duplicates", "counter", "pushed messages at or below the channel's position, not sent again"
    ),
    Metric("access_gaps", "counter", "gaps found in a channel's seq, and read from the log"),
    Metric("access_breaks", "counter", "breaks of a partition's chain of pushes"),
    Metric("access_polls", "counter", "reads of what changed, by why", ("why",)),
    Metric("access_aside", "gauge", "connections put aside because they do not read"),
    Metric("access_put_aside", "counter", "times that a connection was put aside"),
    Metric("access_replies_dropped", "counter", "replies whose connection was gone or deadline past"),
    Metric("access_fanout_size", "histogram", "subscribers of one delivered message", (), _SIZES),
    Metric(
        "access_fanout_seconds",
        "histogram",
        "from its turn until a message was written to the last of a crowd, of more than 64 subscribers",
        (),
        _SECONDS,
    ),
    Metric("access_update_changes", "histogram", "changes in one update of a shard", (), _SIZES),
    Metric("access_forgotten", "counter", "shards that forgot this node, and were written again"),
    Metric("access_fenced", "counter", "times that this node was found dead, and took a new incarnation"),
    Metric("access_shed", "counter", "clients sent elsewhere, by why", ("why",)),
    Metric("access_room_refused", "counter", "sends refused because their channel takes no more", ("who",)),
    Metric("access_rooms_forgotten", "counter", "channels whose rate began anew: too many were remembered"),
    Metric("access_ack_seconds", "histogram", "from a send's arrival to its ack", (), _SECONDS),
    Metric(
        "access_delivery_seconds",
        "histogram",
        "from a message's append to outbound, by the broker's clock, until it is handed on; one in eight",
        (),
        _SECONDS,
    ),
    Metric(
        "access_message_seconds",
        "histogram",
        "from a client's send until its message is handed on, by the clocks of the two nodes; one in eight",
        (),
        _SECONDS,
    ),
    Metric("access_nodelink_refused", "counter", "links or frames refused on nodelink", ("reason",)),
    # logic
    Metric("logic_handled", "counter", "records handled, by kind and outcome", ("kind", "outcome")),
    Metric("logic_handler_seconds", "histogram", "time in a handler", (), _SECONDS),
    Metric(
        "logic_age_seconds",
        "histogram",
        "from a record's append to inbound, by the broker's clock, until all it caused is durable; "
        "one in eight",
        (),
        _SECONDS,
    ),
    Metric(
        "logic_crowded",
        "counter",
        "times a sender's handler had to wait for one of `logic.concurrency` places",
    ),
    Metric("logic_history_waits", "counter", "reads of history that had to wait for a place"),
    Metric("logic_history_refused", "counter", "reads of history that the API refused for want of a place"),
    Metric("logic_history_cut", "counter", "answers of history that ended early because of their size"),
    Metric("logic_api_refused", "counter", "calls of the HTTP API refused because too many were on"),
    Metric("logic_retries", "counter", "runs of a handler after the first"),
    Metric("logic_dead_letters", "counter", "records put into the dead letters", ("reason",)),
    Metric("logic_pending", "gauge", "records fetched and not finished"),
    Metric("logic_paused", "counter", "times a partition was paused because too much of it was unfinished"),
    Metric("logic_crowding", "gauge", "senders told to wait because too much of theirs is unfinished"),
    Metric("logic_output_waits", "counter", "times a place for handlers waited: the producer is half full"),
    Metric("logic_backlog_waits", "counter", "times logic paused because dispatch is far behind"),
    Metric("logic_rewinds", "counter", "returns to what is durable after an output failed"),
    Metric("logic_published", "counter", "messages written to outbound", ("by",)),
    Metric("logic_api_requests", "counter", "calls of the HTTP API", ("route", "status")),
    Metric("logic_api_seconds", "histogram", "time of a call of the HTTP API", (), _SECONDS),
    # dispatch
    Metric("dispatch_partitions", "gauge", "partitions owned by this process"),
    Metric("dispatch_records", "counter", "outbound records applied, by outcome", ("outcome",)),
    Metric("dispatch_batch", "histogram", "records in one apply", (), _SIZES),
    Metric("dispatch_apply_seconds", "histogram", "time of one apply call", (), _SECONDS),
    Metric("dispatch_pushed", "counter", "items handed to links", ("item",)),
    Metric("dispatch_links", "gauge", "open links to access nodes"),
    Metric("dispatch_link_bytes", "gauge", "bytes that wait for the access node that takes the least"),
    Metric("dispatch_link_bytes_limit", "gauge", "bytes that may wait for one access node"),
    Metric("dispatch_queued", "gauge", "records fetched and not applied, of the fullest partition"),
    Metric("dispatch_queued_limit", "gauge", "records of one partition that may be so"),
    Metric("dispatch_strangers", "counter", "links ended because what answered is no access node of ours"),
    Metric("dispatch_dropped", "counter", "bytes dropped because a node did not take them"),
    Metric("dispatch_breaks", "counter", "chains broken on purpose, by why", ("why",)),
    Metric("dispatch_claims", "counter", "tokens claimed, released and lost", ("event",)),
    Metric("dispatch_rewinds", "counter", "returns to an earlier offset because Redis lost writes"),
    Metric("dispatch_rebuilds", "counter", "shards rebuilt, by why", ("why",)),
    Metric("dispatch_rebuilding", "gauge", "partitions whose shard is being rebuilt"),
    Metric("dispatch_state_waits", "counter", "waits of a partition for its state records to be durable"),
    Metric("dispatch_state_removed", "counter", "state records of no use any more, taken out of the topic"),
    Metric(
        "dispatch_state_let_go",
        "counter",
        "state records that an older one may have come behind, and too many to be written once more",
    ),
    Metric("dispatch_unjoined", "counter", "times that a partition's log no longer joined its shard"),
    Metric("dispatch_apply_retries", "counter", "applies repeated because their outcome was unknown"),
    Metric("dispatch_queue_full", "counter", "times a partition was paused because its queue was full"),
    Metric("dispatch_dead_letters", "counter", "records put into the dead letters", ("reason",)),
    Metric("dispatch_tombstones", "counter", "incarnations of access nodes found to be dead, by shard"),
    Metric("dispatch_swept", "counter", "sessions of dead incarnations whose disconnect was written"),
    Metric(
        "dispatch_lag", "gauge", "records between the watermark and the end of the partition", ("partition",)
    ),
    # all
    Metric("bus_partitions", "gauge", "partitions of every topic, by the settings"),
    Metric("bus_produced", "counter", "records made durable", ("topic",)),
    Metric("bus_produce_failed", "counter", "records whose outcome is unknown", ("topic",)),
    Metric("bus_producer_replaced", "counter", "producers replaced after a failure"),
    Metric(
        "bus_buffer_records", "gauge", "records on their way in the producers, as of the last half second"
    ),
    Metric("bus_buffer_records_limit", "gauge", "records that may be so"),
    Metric("bus_buffer_full", "counter", "records refused because the producer's buffer was full"),
    Metric("bus_too_large", "counter", "records refused because no broker would take them", ("topic",)),
    Metric(
        "bus_backlog",
        "gauge",
        "records of a topic's most loaded partition that its readers have not finished; none while unknown",
        ("topic",),
    ),
    Metric("bus_backlog_full", "gauge", "partitions closed until their backlog is smaller", ("topic",)),
    Metric(
        "bus_backlog_refused", "counter", "sends, requests and publishes refused by a backlog", ("topic",)
    ),
    Metric("bus_backlog_unknown", "counter", "looks at a backlog that Kafka did not answer", ("topic",)),
    Metric("log_call_seconds", "histogram", "time of a call to the log", ("call",), _SECONDS),
    Metric("log_call_failed", "counter", "calls to the log that failed", ("call",)),
    Metric("log_liveness_forgotten", "counter", "incarnations forgotten because too many were known"),
    Metric("directory_call_seconds", "histogram", "time of a call to the membership", ("call",), _SECONDS),
    Metric("directory_call_failed", "counter", "calls to the membership that failed", ("call",)),
    Metric("directory_changes", "counter", "changes of the membership seen"),
    Metric("directory_nodes", "gauge", "nodes known", ("role",)),
    Metric("files_limit", "gauge", "file descriptors that this process may open"),
    Metric(
        "loop_failures",
        "counter",
        "errors that a background loop did not expect, and went on after",
        ("loop",),
    ),
    Metric("trace_spans", "counter", "spans of messages that are followed, by outcome", ("outcome",)),
    Metric("loop_stall_seconds", "histogram", "time by which the event loop was late", (), _SECONDS),
    Metric("build_info", "gauge", "1, labelled with the version", ("version",)),
    Metric("tls_reloads", "counter", "certificates that changed, by part and outcome", ("part", "outcome")),
    Metric("auth_jwks_fetches", "counter", "fetches of the JWKS", ("outcome",)),
    Metric("auth_jwks_keys", "gauge", "keys of the JWKS that are in use"),
    Metric("tls_expires_seconds", "gauge", "when a part's certificate ends, Unix time", ("part",)),
)

_CLASSES: Final[dict[Kind, Any]] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


class Metrics:
    """The metrics of one process: each of `TABLE` is an attribute, of the prometheus-client class.

    Every process has a registry and a metrics port of its own, so nothing is shared between workers.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for metric in TABLE:
            more = {"buckets": metric.buckets} if metric.buckets else {}
            made = _CLASSES[metric.kind](
                f"holdfast_{metric.name}", metric.meaning, metric.labels, registry=self.registry, **more
            )
            setattr(self, metric.name, made)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name} is not in the table of metrics (holdfast/observe/metrics.py)")

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)
