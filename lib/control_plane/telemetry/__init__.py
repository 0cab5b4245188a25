"""How services and applications are watched: logs, traces, and the service manager.

Nothing here is imported by the reading library; each module says which extra it needs.
"""
