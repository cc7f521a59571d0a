"""What the log is measured against, and how: `make bench-log`, docs/benchmarks.md."""
