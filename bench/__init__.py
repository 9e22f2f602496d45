"""Benchmarks: each workload asks one question of Millstream, of its peers and of a limit, on the same data."""
