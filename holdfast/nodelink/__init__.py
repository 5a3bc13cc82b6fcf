"""The links on which dispatch pushes to access nodes."""
