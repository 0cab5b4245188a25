"""What operators see of a node and its services, for Prometheus; docs/metrics.md has every name."""
