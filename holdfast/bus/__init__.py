"""The message queue: a port, and its Kafka and memory adapters."""
