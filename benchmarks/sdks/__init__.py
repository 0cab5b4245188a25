"""How each library is asked the questions of `peers`: one module for each, ours among them.

A module says where its flags come from (``document``, ``publish``), how a program opens them
(``imports``, ``opened``), what it asks with (``context``) and the very call (``CALLS``, in which
``name``, ``tenant`` and ``context`` stand for prepared values). Flags come as a mapping of names to
kinds: w1 to w4 as in `reading`, and w0, which is w1 switched off. A library with no update path of
its own for local flags has ``refreshed``, which an application calls when the file has changed; one
that polls has ``following``, which opens them so.

Libraries are imported inside functions: a process that is measured imports one of them alone.
"""

from __future__ import annotations
