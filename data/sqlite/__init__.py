"""Run untrusted SQL read-only and under limits, and read database files in any state. Knows nothing of benchmarks."""
