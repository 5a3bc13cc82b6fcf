"""What operators run: access, logic and dispatch, and the embedded cluster that joins all three."""
