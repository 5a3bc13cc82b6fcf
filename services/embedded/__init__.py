"""All three services in one process, on memory adapters."""
