"""The environment's log: bytes, tree, checkpoints and the fold, as functions of values.

Nothing here opens a file or a socket or reads a clock; the store, the daemon and ``log verify``
call the same functions and therefore decide alike.
"""
