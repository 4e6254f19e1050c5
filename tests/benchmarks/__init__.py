"""Benchmarks: the peers run beside us, in the same run, and only ratios count."""
