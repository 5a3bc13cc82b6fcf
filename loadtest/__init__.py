"""Measuring: what a connection and a delivery cost, beside the C floor in the same run."""
