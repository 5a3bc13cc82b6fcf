"""A real Kubernetes on this machine, in namespaces of its own: nothing of it is left when it ends."""
