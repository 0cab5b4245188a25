"""A folder of manifests as the content of environments: what ``daemon --from`` publishes.

What this module decides:

- The folder is published whole after each change to it, to each environment in turn. What stands
  already is left alone, so an unchanged folder adds nothing to the log.
- A file that cannot be read or is refused is named in one line, and its document stays as it was
  last published; the others go on. While there is such a file nothing is deleted: it cannot be
  told from a document that was taken away.
- Otherwise a document that left the folder is deleted, and a channel whose versions are all gone
  with it. The newest version of an agent or tool is its ``stable`` one.
- Kills and statuses are operators' work and stay what they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from packaging.version import Version
from watchfiles import awatch

from control_plane.errors import ControlPlaneError
from control_plane.log.statements import Key
from control_plane.manifests.documents import reference
from control_plane.manifests.loader import document_files, load_file
from control_plane.manifests.validation import validate_document
from control_plane.names import MANIFEST_KINDS, VERSIONED_KINDS
from control_plane.publish.proposal import Proposal
from control_plane.publish.publisher import Publisher, StoredHead

CHANNEL: Final = "stable"
DEBOUNCE_MS: Final = 200

logger = logging.getLogger("control_plane_daemon")


@dataclass(slots=True)
class Contents:
    """The documents of a folder by reference, and one line for each file that has none."""

    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)


def read_folder(folder: Path) -> Contents:
    """Read and check every document below a folder; no file's error hides another's."""
    contents = Contents()
    for file in document_files([folder]):
        try:
            document = load_file(file)
            validate_document(document)
            name = reference(document.value)
            if name in contents.documents:
                contents.refusals.append(f"{file}: expected each document once, found {name} again")
                continue
            contents.documents[name] = document.value
        except ControlPlaneError as error:
            contents.refusals.append(str(error))
    return contents


def propose(proposal: Proposal, contents: Contents, heads: Mapping[Key, StoredHead]) -> Proposal:
    """Everything the folder says of an environment with these heads."""
    newest: dict[tuple[str, str], str] = {}
    for document in contents.documents.values():
        proposal.put(document)
        if document["kind"] in VERSIONED_KINDS:
            _keep_newest(newest, document)
    for (kind, name), version in newest.items():
        proposal.activate(f"{kind}/{name}@{version}", CHANNEL)
    if not contents.refusals:
        _propose_deletions(proposal, newest, heads.values())
    return proposal


def _propose_deletions(
    proposal: Proposal, newest: Mapping[tuple[str, str], str], heads: Iterable[StoredHead]
) -> None:
    held = set(proposal.manifests)
    for head in heads:
        kind, name, part = head.key
        if not head.live or kind not in MANIFEST_KINDS or head.key in proposal.changes:
            continue
        if kind == "segment" and Key(kind, name) in held:
            continue  # a shard: its members are not in the folder, and go only with their segment
        space, _, rest = part.partition("/")
        if kind in VERSIONED_KINDS and space == "v":
            proposal.delete(f"{kind}/{name}@{rest}")
        elif kind in VERSIONED_KINDS and space == "c" and (kind, name) not in newest:
            proposal.delete(f"{kind}/{name}", channel=rest)
        elif kind not in VERSIONED_KINDS:
            proposal.delete(f"{kind}/{name}", shard=rest or None)


def _keep_newest(newest: dict[tuple[str, str], str], document: Mapping[str, Any]) -> None:
    key, version = (document["kind"], document["name"]), document["version"]
    if key not in newest or Version(version) > Version(newest[key]):
        newest[key] = version


def publish(publisher: Publisher, folder: Path, environments: Sequence[str]) -> list[str]:
    """Publish a folder; one line for each file and environment that was refused."""
    contents = read_folder(folder)
    refusals = list(contents.refusals)
    for environment in environments:
        try:
            proposal = publisher.change(environment, "manifests changed")
            propose(proposal, contents, publisher.heads(environment))
            publisher.submit(proposal)
        except ControlPlaneError as error:
            refusals.append(f"{environment}: not published: {error}")
    return refusals


async def follow_folder(
    publisher: Publisher,
    folder: Path,
    environments: Sequence[str],
    stop: asyncio.Event,
    published: Callable[[], None],
) -> None:
    """Publish the folder now and after each change to it, until ``stop`` is set.

    ``published`` is called after each time, whether or not something was refused.
    """
    told: list[str] = []
    watcher = awatch(folder, stop_event=stop, debounce=DEBOUNCE_MS, rust_timeout=1000)
    while True:
        # Watching begins before the folder is read: a change in between is not missed.
        changed = asyncio.ensure_future(anext(watcher, None))
        await asyncio.sleep(0)
        refusals = await asyncio.to_thread(publish, publisher, folder, environments)
        for refusal in refusals:
            if refusal not in told:
                logger.error("%s", refusal)
        told = refusals
        published()
        if await changed is None:
            return
