"""Putting changes into environments: sign, propose, submit.

    from control_plane.publish import Publisher

    publisher = Publisher("http://127.0.0.1:7840", "keys/author.pem", token="cpt_…")
    change = publisher.change("production", "pilot for acme")
    change.put(manifest)
    publisher.submit(change)

The names below load on first use, so that reading a key file or fetching a blob does not pull in
what validating a manifest needs. A package that is not installed is named with its extra.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from control_plane.publish.changefile import SignedChange
    from control_plane.publish.client import StoreClient, Submission
    from control_plane.publish.proposal import Proposal
    from control_plane.publish.publisher import Publisher
    from control_plane.publish.releasing import Release, Released

__all__ = [
    "Proposal",
    "Publisher",
    "Release",
    "Released",
    "SignedChange",
    "StoreClient",
    "Submission",
]

_HOMES = {
    "Proposal": "control_plane.publish.proposal",
    "Publisher": "control_plane.publish.publisher",
    "Release": "control_plane.publish.releasing",
    "Released": "control_plane.publish.releasing",
    "SignedChange": "control_plane.publish.changefile",
    "StoreClient": "control_plane.publish.client",
    "Submission": "control_plane.publish.client",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("control_plane"):
            raise
        from control_plane.errors import MissingExtra

        raise MissingExtra.of(error.name, "publish") from error
