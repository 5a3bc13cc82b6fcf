"""Frames, codecs and the connection state machine: bytes and objects, no I/O."""
