"""For client authors: an asyncio client."""
