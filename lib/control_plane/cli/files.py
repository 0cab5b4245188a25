"""Which files hold documents, and what is in them.

Every document is read and checked before a verb acts on the first. They come in the order they are
published: what others rest on first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from control_plane.errors import NotFound
from control_plane.manifests.configs import check_together
from control_plane.manifests.documents import reference
from control_plane.manifests.loader import Document, document_files, load_file, load_paths
from control_plane.manifests.validation import validate_document

KIND_ORDER: Final = ("segment", "config", "tool", "agent", "flag")


@dataclass(frozen=True, slots=True)
class DocumentFile:
    """One file and its document."""

    path: Path
    document: dict[str, Any]

    @property
    def reference(self) -> str:
        """``tool/crm_tool@1.2.0``."""
        return reference(self.document)


def read_documents(paths: Iterable[str | Path]) -> list[DocumentFile]:
    """Read and check the documents of files and folders, in the order they are to be published.

    Raises:
        NotFound: a path does not exist, or there is no document at all.
        SyntaxInvalid, ManifestInvalid: a document is out of form; the message names its file.
    """
    named = [Path(path) for path in paths]
    loaded = _loaded(named)
    found = [_checked(document) for document in loaded]
    _check_together(loaded)
    return sorted(found, key=lambda item: KIND_ORDER.index(item.document["kind"]))


def find_files(paths: Iterable[str | Path]) -> list[Path]:
    """The document files at these paths, whether or not they are in form.

    Raises:
        NotFound: a path does not exist, or there is no document at all.
    """
    named = [Path(path) for path in paths]
    _require(named)
    files = document_files(named)
    if not files:
        raise NotFound(f"{', '.join(map(str, named))}: expected documents, found none")
    return files


def read_document(path: Path) -> DocumentFile:
    """Read and check one file.

    Raises:
        SyntaxInvalid, ManifestInvalid: the document is out of form.
    """
    return _checked(load_file(path))


def _checked(document: Document) -> DocumentFile:
    validate_document(document)
    return DocumentFile(Path(document.source), document.value)


def _check_together(loaded: list[Document]) -> None:
    documents = {document.reference: document for document in loaded}

    def place(name: str, path: tuple[str | int, ...]) -> str:
        return f"{documents[name].place(path)}: "

    check_together({name: document.value for name, document in documents.items()}, place)


def _loaded(named: list[Path]) -> list[Document]:
    _require(named)
    documents = load_paths(named)
    if not documents:
        raise NotFound(f"{', '.join(map(str, named))}: expected documents, found none")
    return documents


def _require(named: list[Path]) -> None:
    for path in named:
        if not path.exists():
            raise NotFound(f"{path}: expected a file or folder, found none")
