"""``codegen``: a module and a stub from which type checkers know flags, keys, agents and tools."""

from __future__ import annotations

import keyword
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from control_plane.cli.arguments import checked_environment
from control_plane.cli.output import print_json
from control_plane.errors import ManifestInvalid, ReplicaUnavailable

if TYPE_CHECKING:
    from control_plane.codegen.description import Description, Seen

DEFAULT_OUT: Final = "control_plane_types.py"
PUBLIC_MODE: Final = 0o644


def _checked_environments(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    for value in values:
        checked_environment(context, parameter, value)
    return values


def _checked_out(context: click.Context, parameter: click.Parameter, value: str) -> Path:
    path = Path(value)
    if path.suffix != ".py" or not path.stem.isidentifier() or keyword.iskeyword(path.stem):
        raise click.UsageError(
            f"expected --out as a file a program can import, such as {DEFAULT_OUT}, found"
            f" {value!r}",
            context,
        )
    return path


@click.command()
@click.option(
    "-f", "--file", "files", multiple=True, metavar="PATH",
    help="File or folder of documents; may be repeated. Default manifests, without --replica.",
)  # fmt: skip
@click.option("--replica", metavar="DIR", help="Read replicas under this root, not documents.")
@click.option(
    "-e", "--environment", "--env", "environments", multiple=True, metavar="ENV",
    callback=_checked_environments,
    help="Only this environment; may be repeated. Default: every one there is.",
)  # fmt: skip
@click.option(
    "--out", metavar="FILE", default=DEFAULT_OUT, show_default=True, callback=_checked_out,
    help="The module; the stub stands beside it as .pyi.",
)  # fmt: skip
@click.option(
    "--check", is_flag=True, help="Write nothing; exit 1 unless both files are up to date."
)
@click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.')
def codegen(
    files: Sequence[str],
    replica: str | None,
    environments: Sequence[str],
    out: Path,
    check: bool,
    as_json: bool,
) -> int:
    """Write a Python module and its stub, so that type checkers know what there is.

    In the stub the library's classes take the names of flags, configuration keys, agents and tools
    that exist, and answer with their types; while a program runs they are the library's own.
    """
    from control_plane.codegen.description import described
    from control_plane.codegen.writing import module_text, stub_text

    if files and replica is not None:
        raise click.UsageError("expected -f or --replica, found both")
    seen = (
        _seen_in_files(files or ("manifests",), environments)
        if replica is None
        else _seen_in_replicas(replica, environments)
    )
    found = described(seen)
    texts = {out: module_text(found), out.with_suffix(".pyi"): stub_text(found)}
    other = {path: text.encode() for path, text in texts.items() if _read(path) != text.encode()}
    if check and other:
        stale = " and ".join(map(str, other))
        cure = shlex.join(_command(files, replica, environments, out))
        raise ManifestInvalid(
            f"{stale}: expected what {_source(files, replica)} gives,"
            f" found {_found(list(other))}; run '{cure}'"
        )
    for path, data in other.items():
        _write(path, data)
    _tell(found, list(texts), [str(path) for path in other], check=check, as_json=as_json)
    return 0


def _seen_in_files(files: Sequence[str], environments: Sequence[str]) -> list[Seen]:
    from control_plane.cli.files import read_documents
    from control_plane.codegen.sources import seen_in_documents

    return seen_in_documents([item.document for item in read_documents(files)], environments)


def _seen_in_replicas(root: str, chosen: Sequence[str]) -> list[Seen]:
    from control_plane.codegen.sources import seen_in_replica
    from control_plane.defaults import environments
    from control_plane.replica.reader import open_replica
    from control_plane.replica.source import current_folder

    names = list(chosen) or list(environments(root))
    if not names:
        raise ReplicaUnavailable(f"{root}: expected a replica, found none; start the daemon")
    seen = []
    for name in names:
        replica = open_replica(current_folder(str(Path(root, name))))
        try:
            seen.append(seen_in_replica(replica))
        finally:
            replica.close()
    return seen


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: Path, data: bytes) -> None:
    from control_plane.publish.durable import write_over

    write_over(path, data, PUBLIC_MODE)


def _source(files: Sequence[str], replica: str | None) -> str:
    return ", ".join(files) or "manifests" if replica is None else replica


def _found(paths: Sequence[Path]) -> str:
    return "another text" if any(path.exists() for path in paths) else "no file"


def _command(
    files: Sequence[str], replica: str | None, environments: Sequence[str], out: Path
) -> list[str]:
    words = ["control-plane", "codegen"]
    for file in files:
        words += ["-f", file]
    if replica is not None:
        words += ["--replica", replica]
    for environment in environments:
        words += ["-e", environment]
    return [*words, "--out", str(out)]


def _tell(
    found: Description, paths: Sequence[Path], written: list[str], *, check: bool, as_json: bool
) -> None:
    counts = {
        "flags": len({flag.name for flag in found.flags}),
        "keys": len(found.keys),
        "agents": len(found.agents),
        "tools": len(found.tools),
    }
    if as_json:
        print_json({"files": [str(path) for path in paths], "written": written} | counts)
        return
    names = " and ".join(map(str, paths))
    told = f"{'wrote' if written else 'up to date:'} {names}"
    click.echo(
        f"{told}: {counts['flags']} flags, {counts['keys']} configuration keys,"
        f" {counts['agents']} agents, {counts['tools']} tools"
    )
