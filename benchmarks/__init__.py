"""The benchmarks that `hornbook bench` runs, and their results in RESULTS.md."""
