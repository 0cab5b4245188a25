"""What ``status`` and ``doctor`` say where root has a log go on from before a node's own end."""

from __future__ import annotations

from collections.abc import Iterable

from control_plane.errors import ControlPlaneError


def with_offer(folder: str, environment: str, reasons: Iterable[str]) -> list[str]:
    """The reasons of a replica's health; *rejected* gives way to the epoch that its owner may take.

    ``folder`` is ``<replica root>/<environment>``.
    """
    given = list(reasons)
    if not any(reason.startswith("rejected:") for reason in given):
        return given
    from control_plane.replica.evidence import read_standing

    try:
        offer = read_standing(folder, environment).offer
    except ControlPlaneError:
        return given  # it is being swapped, or cannot be read, which is told elsewhere
    if offer is None:
        return given
    told = (
        f"diverged: root has the log go on as {offer.origin} from another history than the one"
        f" held here; run 'control-plane replica accept-epoch -e {environment}' to follow, what is"
        " served stays until then"
    )
    return [told if reason.startswith("rejected:") else reason for reason in given]
