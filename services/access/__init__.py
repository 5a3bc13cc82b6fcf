"""The access service: holds the connections."""
