"""Which nodes exist and where: a port, and its Consul, Redis and static adapters."""
