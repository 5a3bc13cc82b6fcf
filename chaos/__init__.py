"""Chaos on a real local cluster: a steady load, a seeded schedule of faults, and a ledger."""
