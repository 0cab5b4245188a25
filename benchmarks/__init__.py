"""Measurements of what this project claims; ``python -m benchmarks`` runs them all."""
