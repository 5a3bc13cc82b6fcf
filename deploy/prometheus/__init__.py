"""Alert and recording rules, from which the files that Prometheus reads are made."""
