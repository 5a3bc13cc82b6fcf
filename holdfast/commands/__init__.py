"""What the `holdfast` command does for operators, one file for each."""
