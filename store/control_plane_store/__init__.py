"""The central service: it checks, sequences and serves the change sets of every environment."""
