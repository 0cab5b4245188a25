"""How much memory this process has, as Linux counts it; imports nothing that would count too."""

from __future__ import annotations


def rss_without_kib(file_name: str, process: int | str = "self") -> int:
    """A process's resident memory, without what it maps of files of that name."""
    total = mapped = 0
    ours = False
    with open(f"/proc/{process}/smaps", encoding="ascii", errors="replace") as lines:  # noqa: PTH123
        for line in lines:
            if line.startswith("Rss:"):
                size_kib = int(line.split()[1])
                total += size_kib
                mapped += size_kib * ours
            elif line[0] in "0123456789abcdef":
                ours = line.rstrip().endswith("/" + file_name)
    return total - mapped


def private_dirty_kib() -> int:
    """The memory that only this process has and that no file backs."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as lines:  # noqa: PTH123
        return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))
