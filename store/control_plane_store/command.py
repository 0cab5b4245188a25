"""``control-plane store``, ``store init``, ``store forget`` and ``token``.

The service itself prints one line, ``store ready at URL``, once it answers; all else goes to
stderr, a line of JSON for each event, or one for people where that is a terminal. ``store init``
makes everything a first start needs and nothing by halves: the database appears complete, with the
first entry and checkpoint of every environment, or not at all.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from control_plane.cli.settings import read_file, require_project, settings
from control_plane.errors import EpochDiverged, InputInvalid, Refused
from control_plane.names import DIGEST
from control_plane.publish.trustfolder import TrustFolder
from control_plane.telemetry.logs import set_up_logging
from control_plane.telemetry.service_manager import ServiceManager
from control_plane.trust.enrolment import Enrolment
from control_plane_store import tokens
from control_plane_store.audit import Audit
from control_plane_store.database import Database, move_database, remove_database
from control_plane_store.listening import DEFAULT, Listen, check_reach, listen_at, tls_context
from control_plane_store.logkeys import LogKeys
from control_plane_store.memory import map_large_pieces
from control_plane_store.metrics import observed
from control_plane_store.sequencer import Sequencer
from control_plane_store.service import Store, create_app, new_runner

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
DATABASE = "store.sqlite3"
"""What ``init`` calls the database of a project."""

database_option = click.option(
    "--database", required=True, type=FILE, help="The store's SQLite file."
)


def _found_database(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
    """The database named, else that of the project around the working folder."""
    if value is not None:
        return value
    return require_project(settings(), "--database FILE").private / DATABASE


project_database_option = click.option(
    "--database",
    type=FILE,
    callback=_found_database,
    help="The store's SQLite file; default the project's.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

logger = logging.getLogger(__name__)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@click.group(invoke_without_command=True)
@click.option("--database", type=FILE, help="The store's SQLite file.")
@click.option("--keys", type=FOLDER, help="Folder with the logs' keys, log-<environment>.pem.")
@click.option("--trust", type=FOLDER, help="Trust metadata; what is newer is appended at start.")
@click.option(
    "--passphrase-file",
    type=FILE,
    envvar="CONTROL_PLANE_KEY_PASSPHRASE_FILE",
    help="Passphrase of the log keys.",
)
@click.option(
    "--without-key",
    multiple=True,
    metavar="ENV",
    help="Serve that log as it stands: its key is lost, until an epoch names another.",
)
@click.option("--listen", default=DEFAULT, show_default=True, help="host:port or unix:PATH.")
@click.option("--public", is_flag=True, help="Let anyone read; writing still wants a token.")
@click.option("--behind-proxy", is_flag=True, help="A proxy in front of the store ends TLS.")
@click.option("--tls-certificate", type=FILE, help="Certificate chain, PEM.")
@click.option("--tls-key", type=FILE, help="Its private key, PEM.")
@click.option(
    "--metrics", metavar="ADDRESS",
    help="Answer /metrics on HOST:PORT or unix:PATH; without it nowhere.",
)  # fmt: skip
def store(**options: Any) -> None:
    """Run the central store."""
    if click.get_current_context().invoked_subcommand is not None:
        return
    for name in ("database", "keys"):
        if options[name] is None:
            raise click.UsageError(f"expected --{name}, found none")
    if (options["tls_certificate"] is None) != (options["tls_key"] is None):
        raise click.UsageError("expected --tls-certificate and --tls-key together, found one")
    _check_listen(options["listen"])
    set_up_logging()
    map_large_pieces()
    asyncio.run(_serve(**options))


def _check_listen(text: str) -> None:
    try:
        Listen.parse(text)
    except InputInvalid as error:
        raise click.UsageError(str(error)) from error


async def _serve(
    database: Path,
    keys: Path,
    trust: Path | None,
    passphrase_file: Path | None,
    without_key: tuple[str, ...],
    listen: str,
    public: bool,
    behind_proxy: bool,
    tls_certificate: Path | None,
    tls_key: Path | None,
    metrics: str | None,
) -> None:
    place = Listen.parse(listen)
    check_reach(place, tls=tls_certificate is not None, behind_proxy=behind_proxy)
    context = None
    if tls_certificate is not None and tls_key is not None:
        context = tls_context(tls_certificate, tls_key)
    manager = ServiceManager.take_from(os.environ)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    opened = Database.open(database)
    try:
        opened.hold()
        service = Store(opened, public=public, now_ms=now_ms)
        service.sequencer = _sequencer(
            opened, keys, trust, passphrase_file, service.published, without_key
        )
        runner = new_runner(create_app(service))
        await runner.setup()
        try:
            url = await listen_at(runner, place, context)
            click.echo(f"store ready at {url}")
            async with observed(service, metrics), manager.attended():
                manager.ready()
                await stopped.wait()
                manager.stopping()
                await service.stop()
        finally:
            await runner.cleanup()
    finally:
        opened.close()


def _sequencer(
    database: Database,
    keys: Path,
    trust: Path | None,
    passphrase_file: Path | None,
    published: Callable[..., None],
    without_key: tuple[str, ...] = (),
) -> Sequencer:
    """The writer, once newer trust metadata from the folder stands in the logs.

    Left as they are, with a line that says so, are a log that the folder's newest root does not
    name, and one that does not lead to where that root lets it go on in a new epoch: that of a
    store restored from an older backup, which must run so that another epoch can be signed.
    """
    folder = None if trust is None else TrustFolder.read(trust)
    identities = {} if folder is None else folder.identities()
    log_keys = LogKeys(keys, _passphrase(passphrase_file))
    sequencer = Sequencer(
        database,
        log_keys.signer,
        audit=Audit(database.path),
        now_ms=now_ms,
        published=published,
        without_key=without_key,
    )
    if folder is not None:
        known = sequencer.environments
        answers = {
            environment: sequencer.append_trust(environment, folder.roots, folder.targets)
            for environment in known
            if environment in identities
        }
        added = [log for name, log in identities.items() if name not in known]
        begun = sequencer.begin_logs(added, folder.roots, folder.targets)
        sequencer.work()
        for environment, answer in answers.items():
            try:
                answer.result()
            except EpochDiverged as error:
                logger.warning(
                    "%s; the log of epoch %d is served, go on from its end by 'control-plane log"
                    " new-epoch -e %s --restored'",
                    error, sequencer.position(environment).log.epoch, environment,
                    extra={
                        "environment": environment,
                        "epoch": sequencer.position(environment).log.epoch,
                    },
                )  # fmt: skip
        begun.result()
    return sequencer


@store.command("init")
@database_option
@click.option(
    "--trust", required=True, type=FOLDER, help="Folder with N.root.json and targets.json."
)
@click.option("--keys", required=True, type=FOLDER, help="Folder with log-<environment>.pem.")
@click.option("--enrolment", type=FILE, help="Write trust.json for nodes here.")
@click.option("--tokens", "token_folder", type=FOLDER, help="Write the first tokens here, 0600.")
@click.option("--passphrase-file", type=FILE, envvar="CONTROL_PLANE_KEY_PASSPHRASE_FILE")
@json_option
def init(
    database: Path,
    trust: Path,
    keys: Path,
    enrolment: Path | None,
    token_folder: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Make a new store: database, first entries and checkpoints, enrolment, tokens."""
    folder = TrustFolder.read(trust)
    identities = folder.identities()
    origins = {name: log.origin for name, log in identities.items()}
    log_keys = LogKeys(keys, _passphrase(passphrase_file))
    for written in _init_files(enrolment, token_folder):
        if written.exists():
            raise Refused(_taken(written))
    # Made beside and renamed: a crash leaves a file nobody opens, which the next init removes.
    beside = database.with_name(database.name + ".new")
    remove_database(beside)
    if database.exists():
        raise Refused(f"{database}: expected no file, found one; it is a store already")
    created = Database.create(beside)
    audit = Audit(database)
    try:
        sequencer = Sequencer(created, log_keys.signer, audit=audit, now_ms=now_ms)
        begun = sequencer.begin_logs(identities.values(), folder.roots, folder.targets)
        sequencer.work()
        begun.result()
        sequencer.publish_all()
        checkpoints = {each: sequencer.position(each).log.note for each in identities}
        given = _first_tokens(created, audit, tuple(identities)) if token_folder else {}
    finally:
        created.close()
    _write_new(enrolment, Enrolment(folder.roots[-1], folder.targets, checkpoints).encode(), 0o644)
    for name, secret in given.items():
        assert token_folder is not None
        _write_new(token_folder / f"{name}.token", f"{secret}\n".encode(), 0o600)
    move_database(beside, database)
    if as_json:
        click.echo(json.dumps({"format": 1, "database": str(database), "origins": origins}))
    else:
        click.echo(f"{database}: a store for {', '.join(origins.values())}")


@store.command("forget")
@project_database_option
@click.argument("digest")
def forget(database: Path, digest: str) -> None:
    """Delete a superseded blob's bytes, for example personal data; the log keeps its digest."""
    if not DIGEST.fullmatch(digest):
        raise click.UsageError(f"expected a digest of 64 hex digits, found {digest!r}")
    opened = Database.open(database)
    try:
        with opened.write() as transaction:
            transaction.forget_blob(digest)
            # Before the commit: nothing is deleted that no line tells of.
            Audit(database).append([{"at": now_ms(), "event": "blob-forgotten", "digest": digest}])
    finally:
        opened.close()
    click.echo(f"blob {digest}: deleted")


@click.group()
def token() -> None:
    """Make, list and revoke the store's tokens."""


@token.command("new")
@project_database_option
@click.argument("name")
@click.option(
    "-e", "--env", "--environment", "environments", multiple=True, required=True,
    help="Environment it holds in; repeat for several.",
)  # fmt: skip
@click.option("--may", required=True, type=click.Choice(tokens.MAY), help="submit reads too.")
@click.option("--out", type=FILE, help="Write it to this file (0600) instead of printing it.")
@json_option
def token_new(
    database: Path,
    name: str,
    environments: tuple[str, ...],
    may: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Make a token; it is shown once and only its hash is kept."""
    if out is not None and out.exists():
        # Before the token is made: one that nobody was shown would stay in force.
        raise Refused(_taken(out))
    secret = tokens.new_secret(secrets.token_bytes)
    opened = Database.open(database)
    try:
        tokens.issue(
            opened,
            Audit(database),
            name=name,
            environments=environments,
            may=may,
            secret=secret,
            now_ms=now_ms(),
        )
    finally:
        opened.close()
    if out is not None:
        _write_new(out, f"{secret}\n".encode(), 0o600)
    elif as_json:
        click.echo(json.dumps({"format": 1, "name": name, "may": may, "token": secret}))
    else:
        click.echo(secret)


@token.command("list")
@project_database_option
@json_option
def token_list(database: Path, as_json: bool) -> None:
    """List tokens; never their secrets."""
    opened = Database.open(database)
    try:
        with opened.read() as snapshot:
            rows = snapshot.tokens()
    finally:
        opened.close()
    if as_json:
        listed = [
            {name: getattr(row, name) for name in type(row).__dataclass_fields__} for row in rows
        ]
        click.echo(json.dumps({"format": 1, "tokens": listed}))
        return
    for row in rows:
        state = "in force" if row.revoked_at is None else "revoked"
        click.echo(f"{row.name}\t{row.environment}\t{row.may}\t{state}")


@token.command("revoke")
@project_database_option
@click.argument("name")
@click.option("-e", "--env", "--environment", "environment", help="Only there; all by default.")
def token_revoke(database: Path, name: str, environment: str | None) -> None:
    """Revoke tokens by name; it holds from the next request on."""
    opened = Database.open(database)
    try:
        count = tokens.revoke(
            opened, Audit(database), name=name, environment=environment, now_ms=now_ms()
        )
    finally:
        opened.close()
    click.echo(f"{name}: revoked in {count} environment{'s' if count != 1 else ''}")


def _first_tokens(
    database: Database, audit: Audit, environments: tuple[str, ...]
) -> dict[str, str]:
    """One token to follow and one to submit, each for all environments."""
    given = {}
    for may in tokens.MAY:
        given[may] = tokens.new_secret(secrets.token_bytes)
        tokens.issue(
            database,
            audit,
            name=may,
            environments=environments,
            may=may,
            secret=given[may],
            now_ms=now_ms(),
        )
    return given


def _init_files(enrolment: Path | None, token_folder: Path | None) -> list[Path]:
    files = [] if enrolment is None else [enrolment]
    return files + [token_folder / f"{may}.token" for may in tokens.MAY if token_folder]


def _write_new(path: Path | None, data: bytes, mode: int) -> None:
    """Write a file that was not there, durably."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise Refused(_taken(path)) from error
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _taken(path: Path) -> str:
    return f"{path}: expected no file, found one; remove it first"


def _passphrase(path: Path | None) -> bytes | None:
    if path is None:
        return None
    cure = "pass --passphrase-file FILE or set CONTROL_PLANE_KEY_PASSPHRASE_FILE"
    return read_file(path, "a passphrase file", cure).rstrip(b"\r\n")
