"""What the operators' files are made and checked with."""
