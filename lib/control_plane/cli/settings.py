"""Where a verb finds store, token, keys and trust.

For each: the option, then the variable ``CONTROL_PLANE_*``, then the project, which is the nearest
folder upward that holds ``.control-plane/config.json``. A token or key of the project is used
only for the project's own store: an address from elsewhere never receives this project's token.
This module and ``control_plane.defaults`` are where the environment is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import click

from control_plane.cli.arguments import checked_environment
from control_plane.errors import InputInvalid, NotFound, TokenRefused

if TYPE_CHECKING:
    from control_plane.publish.client import StoreClient
    from control_plane.publish.keyfiles import KeySigner
    from control_plane.publish.publisher import Publisher
    from control_plane.trust.enrolment import Enrolment
    from control_plane.trust.state import Policy

FOLDER: Final = ".control-plane"
RUNNING: Final = "store.url"
"""Written by ``up`` while it runs: with another --listen, the project's verbs follow it there."""

IN_PROJECT: Final = "run it inside the folder that 'control-plane init DIR' made"
NO_PROJECT: Final = "run 'control-plane init DIR' to make one"

DEFAULT_STORE: Final = "http://127.0.0.1:7840"
TOLD: Final = "control_plane.told_of_clear_token"
"""Where a run notes that it has warned."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Project:
    """A project folder and what its ``config.json`` says."""

    folder: Path
    installation: str
    environments: tuple[str, ...]
    store: str
    replica: str | None
    manifests: Path
    private_name: str = FOLDER

    @property
    def private(self) -> Path:
        """The folder of keys, tokens and the store's database (0700)."""
        return self.folder / self.private_name

    @property
    def running_store(self) -> str:
        """Where ``up`` runs the store now; else where the project says it is."""
        try:
            text = (self.private / RUNNING).read_text(encoding="utf-8")
        except FileNotFoundError:
            return self.store
        return text.strip() or self.store

    def owns(self, store: str) -> bool:
        """Whether that is this project's own store, which its tokens and keys are for."""
        return store in (self.store, self.running_store)

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return {
            "format": 1,
            "installation": self.installation,
            "environments": list(self.environments),
            "store": self.store,
            "replica": self.replica,
            "manifests": _below(self.manifests, self.folder),
        }


def find_project(start: Path) -> Project | None:
    """The nearest project at or above ``start``."""
    for folder in (start, *start.parents):
        if (folder / FOLDER / "config.json").is_file():
            return read_project(folder)
    return None


def read_project(folder: Path) -> Project:
    """Read ``config.json`` of a project.

    Raises:
        NotFound: there is no project in that folder.
        InputInvalid: it is not what ``init`` writes.
    """
    from control_plane.log.canonical import parse

    path = folder / FOLDER / "config.json"
    value = parse(read_file(path, "a project", NO_PROJECT), what=str(path))
    if not isinstance(value, dict) or value.get("format") != 1:
        raise InputInvalid(f"{path}: expected a project of format 1, found another")
    environments, replica = value.get("environments"), value.get("replica")
    if not isinstance(environments, list) or not all(isinstance(e, str) for e in environments):
        raise InputInvalid(f"{path}: expected a list of environments, found none")
    return Project(
        folder,
        str(value.get("installation")),
        tuple(str(environment) for environment in environments),
        str(value.get("store")),
        replica if isinstance(replica, str) else None,
        folder / str(value.get("manifests", "manifests")),
    )


def _below(path: Path, folder: Path) -> str:
    """Relative where the project holds it, so that the folder can be moved."""
    folder = folder.absolute()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


@dataclass(slots=True)
class Settings:
    """What a run was given; each question is answered when it is asked."""

    variables: Mapping[str, str]
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def project(self) -> Project | None:
        """The project around the working folder."""
        return find_project(self.folder)

    def given(self, option: str, variable: str) -> str | None:
        """An option's value, else its variable's."""
        value = self.options.get(option)
        return str(value) if value else self.variables.get(f"CONTROL_PLANE_{variable}") or None

    @property
    def store(self) -> str:
        """The store's URL."""
        project = self.project
        return self.given("store", "STORE") or (project.running_store if project else DEFAULT_STORE)

    def token(self, name: str) -> str | None:
        """The bearer token for the store; ``name`` is ``submit`` or ``follow``."""
        path = self.given("token_file", "TOKEN_FILE") or self._of_project(f"tokens/{name}.token")
        if path is None:
            return None
        secret = read_token(Path(path))
        tell_of_clear_token(self.store)
        return secret

    def traceparent(self) -> str | None:
        """The trace this run belongs to, as a CI system hands it to its commands."""
        return self.variables.get("TRACEPARENT")

    @property
    def key_files(self) -> tuple[str, ...]:
        """The key files to sign with; the project's author key when none is named."""
        if named := self.options.get("key"):
            return tuple(named)
        if variable := self.variables.get("CONTROL_PLANE_KEY_FILE"):
            return tuple(variable.split(os.pathsep))
        path = self._of_project("keys/author.pem")
        return () if path is None else (path,)

    def signers(self, *, required: bool = True) -> list[KeySigner]:
        """The loaded keys.

        Raises:
            NotFound: none is named and the project has none, though one is required.
        """
        from control_plane.publish.keyfiles import load_signer

        if required and not self.key_files:
            raise NotFound(
                "key: expected a key file, found none; pass --key FILE, set CONTROL_PLANE_KEY_FILE,"
                f" or {IN_PROJECT}"
            )
        passphrase = self.passphrase()
        return [load_signer(path, passphrase) for path in self.key_files]

    def passphrase(self) -> bytes | None:
        """The key files' passphrase, from the file that CONTROL_PLANE_KEY_PASSPHRASE_FILE names."""
        path = self.given("passphrase_file", "KEY_PASSPHRASE_FILE")
        if path is None:
            return None
        cure = "pass --passphrase-file FILE or set CONTROL_PLANE_KEY_PASSPHRASE_FILE"
        return read_file(Path(path), "a passphrase file", cure).rstrip(b"\r\n")

    def enrolment_file(self) -> Path | None:
        """The ``trust.json`` to start from, if there is one."""
        if given := self.options.get("trust"):
            return Path(given)
        if (own := self._project_file("trust.json")) is not None:
            return Path(own)
        home = self.variables.get("CONTROL_PLANE_HOME")
        place = Path(home) if home else Path.home() / ".config" / "control-plane"
        return place / "trust.json" if (place / "trust.json").is_file() else None

    def enrolment(self) -> Enrolment:
        """The enrolment.

        Raises:
            NotFound: there is no ``trust.json``.
        """
        from control_plane.trust.enrolment import Enrolment

        path = self.enrolment_file()
        if path is None:
            raise NotFound(
                "trust: expected a trust.json, found none; pass --trust FILE, put it into"
                f" CONTROL_PLANE_HOME (~/.config/control-plane), or {IN_PROJECT}"
            )
        cure = "pass --trust with the file that 'store init --enrolment' wrote"
        return Enrolment.decode(read_file(path, "a trust.json", cure))

    def replica(self) -> str | None:
        """The replica root, where an option, a variable or the project names one."""
        project = self.project
        return self.given("replica", "REPLICA") or (project.replica if project else None)

    def _of_project(self, name: str) -> str | None:
        project = self.project
        if project is None or not project.owns(self.store):
            return None
        return self._project_file(name)

    def _project_file(self, name: str) -> str | None:
        project = self.project
        if project is None or not (project.private / name).is_file():
            return None
        return str(project.private / name)


def read_file(path: Path, what: str, cure: str) -> bytes:
    """The bytes of a file that an option, a variable or the project names.

    Raises:
        NotFound: there is none, or none that can be read; says ``what`` it was to be.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise _no_file(error, path, what, cure) from error


def open_file(path: Path, what: str, cure: str) -> BinaryIO:
    """The file itself, for one that may be large; as ``read_file``.

    Raises:
        NotFound: there is none, or none that can be read; says ``what`` it was to be.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise _no_file(error, path, what, cure) from error


def _no_file(error: OSError, path: Path, what: str, cure: str) -> NotFound:
    missing = isinstance(error, FileNotFoundError)
    found = "none" if missing else (error.strerror or str(error)).lower()
    return NotFound(f"expected {what}, found {found} at {path}; {cure}")


def read_token(path: Path) -> str:
    """A token file's token.

    Raises:
        NotFound: there is no such file.
        TokenRefused: the file holds none.
    """
    cure = "make one with 'control-plane token new', then pass --token-file FILE"
    text = read_file(path, "a token file", cure).decode("ascii", "replace").strip()
    if not text.startswith("cpt_") or len(text.split()) != 1:
        raise TokenRefused(f"{path}: expected a token cpt_…, found other text")
    return text


def settings(**options: Any) -> Settings:
    """The settings of this run: options over environment variables over the project."""
    return Settings(os.environ, Path.cwd(), options)


def require_project(found: Settings, otherwise: str) -> Project:
    """The project around the working folder, for a verb that was not told ``otherwise``.

    Raises:
        click.UsageError: there is none.
    """
    project = found.project
    if project is None:
        raise click.UsageError(
            f"expected {otherwise} or a project here or above, found neither; {IN_PROJECT}"
        )
    return project


def is_in_clear(url: str) -> bool:
    """Whether what is sent to this address crosses a network without TLS."""
    from ipaddress import ip_address
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.hostname == "localhost":
            return False
        return not ip_address(parts.hostname).is_loopback
    except ValueError:
        # A name that is no address is another host's; what is no URL is refused where it is used.
        return "[" not in url


def tell_of_clear_token(url: str) -> None:
    """Warn on stderr, once a run, that a token goes to this address in the clear.

    It is sent all the same: inside a cluster a proxy beside the process, or the network itself, may
    encrypt what looks plain from here. A token alone changes nothing: signatures decide.
    """
    context = click.get_current_context(silent=True)
    told: dict[str, Any] = {} if context is None else context.meta
    if is_in_clear(url) and not told.setdefault(TOLD, False):
        told[TOLD] = True
        click.echo(
            f"warning: {url}: the token crosses the network in the clear, where others can read it;"
            " name the store by https",
            err=True,
        )


@contextmanager
def store_client(
    found: Settings, token: str = "submit", *, waiting: bool = True
) -> Iterator[StoreClient]:
    """A client of the store, closed at the end.

    A verb that shows no progress of its own leaves ``waiting`` as it is: then a slow store does.
    """
    from control_plane.cli.output import progress
    from control_plane.publish.client import StoreClient

    try:
        client = StoreClient(found.store, found.token(token))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with client, progress(f"waiting for {found.store}") if waiting else nullcontext():
        yield client


@contextmanager
def publisher(found: Settings, *, sign: bool = True, waiting: bool = True) -> Iterator[Publisher]:
    """A publisher with the run's keys, closed at the end; origins come from trust when known.

    ``waiting`` is false for a verb that shows progress of its own.
    """
    from control_plane.publish.publisher import Publisher

    signers = found.signers(required=sign) if sign else []
    with (
        store_client(found, waiting=waiting) as client,
        Publisher(
            client, *signers, origins=trusted_origins(found), traceparent=found.traceparent
        ) as made,
    ):
        yield made


def own_enrolment(found: Settings) -> Enrolment | None:
    """The run's enrolment, None without one.

    Only when the enrolment belongs to the store at hand: with another --store, the project's
    trust says nothing about it.
    """
    if not found.options.get("trust") and (
        (project := found.project) is None or not project.owns(found.store)
    ):
        return None
    return None if found.enrolment_file() is None else found.enrolment()


def trusted_origins(found: Settings) -> dict[str, str]:
    """The origins that the run's enrolment names; empty without one."""
    enrolment = own_enrolment(found)
    if enrolment is None:
        return {}
    policy = enrolled_policy(enrolment)
    return {name: policy.log(name).origin for name in policy.environments}


def enrolled_policy(enrolment: Enrolment) -> Policy:
    """The policy an enrolment states, with its signatures checked; expiry does not matter yet."""
    from control_plane.trust.state import adopt

    return adopt(None, [enrolment.root], enrolment.targets, at_ms=0)


# Options that several verbs share.


def environment_option(function: Function) -> Function:
    """``-e/--environment``, required: a command that writes has no default environment."""
    return click.option(
        "-e",
        "--environment",
        "--env",
        required=True,
        metavar="ENV",
        callback=checked_environment,
        help="The environment.",
    )(function)


def store_options(function: Function) -> Function:
    """``--store``, ``--token-file`` and ``--json``."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.'),
        click.option("--token-file", metavar="FILE", help="File with the store's token (0600)."),
        click.option(
            "--store", metavar="URL", help="http(s)://host:port or unix:/path of the store."
        ),
    ):
        function = option(function)
    return function


def key_options(function: Function) -> Function:
    """``--key``, which may be given more than once, and ``--passphrase-file``."""
    for option in (
        click.option("--passphrase-file", metavar="FILE", help="File with the keys' passphrase."),
        click.option(
            "--key", multiple=True, metavar="FILE", help="Key to sign with; may be repeated."
        ),
    ):
        function = option(function)
    return function
