"""What Holdfast stands on, looked at: servers, their settings, clocks and the machine. Nothing is written."""
