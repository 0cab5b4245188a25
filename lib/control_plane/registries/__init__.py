"""Agents and tools by name, version and channel."""
