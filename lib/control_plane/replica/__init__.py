"""One environment's data on a node: an LMDB file and a mapped header.

``format`` and ``header`` fix the bytes, ``reader`` and ``source`` read them without a lock,
``writer`` is the one process that changes them, ``verify`` checks a whole folder.
"""
