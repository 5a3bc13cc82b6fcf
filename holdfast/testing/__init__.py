"""For handler authors: an in-memory cluster in one line.

```python
async with Cluster(app) as cluster:
    alice, bob = await cluster.connect("alice"), await cluster.connect("bob")
    await alice.send("user:bob", "chat.text", {"text": "hi"})
    message = await bob.receive()
```
"""

from holdfast.testing.cluster import Cluster, DeadLetter
from holdfast.testing.peer import Peer

__all__ = ["Cluster", "DeadLetter", "Peer"]
