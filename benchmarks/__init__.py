"""Benchmarks: ``python -m benchmarks`` prints a table; they are no tests and judge nothing but the clock."""
