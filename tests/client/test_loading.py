"""What a process loads for what it uses: nothing for the import, no more than needed after."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

FORBIDDEN = {
    "asyncio",
    "collections.abc",
    "ctypes",
    "dataclasses",
    "inspect",
    "json",
    "logging",
    "pathlib",
    "re",
    "ssl",
    "threading",
    "typing",
}


def loaded(script: str) -> set[str]:
    """The modules a script loads in a fresh interpreter, beyond the interpreter's own."""
    program = f"import sys; before = set(sys.modules)\n{script}\nprint(*set(sys.modules) - before)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_importing_the_package_loads_nothing_else() -> None:
    assert loaded("import control_plane") == {
        "__future__",
        "control_plane",
        "control_plane._version",
    }


def test_every_public_name_is_there_and_listed() -> None:
    script = (
        "import control_plane\n"
        "assert dir(control_plane) == sorted(control_plane.__all__)\n"
        "for name in control_plane.__all__: getattr(control_plane, name)\n"
    )
    assert "control_plane.client" in loaded(script)


def test_an_unknown_name_is_an_attribute_error() -> None:
    import control_plane

    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        control_plane.Nonsense  # noqa: B018


@pytest.mark.parametrize(
    "use",
    ["client.is_enabled('new_ai_model')", "client.config.get('database', tenant_id='acme')"],
)
def test_a_first_read_loads_no_heavy_module(stocked: Any, use: str) -> None:
    modules = loaded(
        "from control_plane import ControlPlaneClient\n"
        f"client = ControlPlaneClient({str(stocked.root)!r}, 'production')\n"
        f"assert {use}\n"
    )
    # datetime and collections come with msgpack.
    assert modules & FORBIDDEN == set()
    assert not {name for name in modules if name.startswith("control_plane.registries")}


def test_a_flag_of_flagds_loads_no_heavy_module_either() -> None:
    modules = loaded(
        "from control_plane.feature_flags.compile import VALUES, Compiler\n"
        "split = {'fractional': [{'var': 'email'}, ['on', 1], ['off', 0]]}\n"
        "asked = {'sem_ver': [{'var': 'version'}, '>', '1.0']}\n"
        "flag = {'variants': {'on': True, 'off': False}, 'targeting': {'if': [asked, split]}}\n"
        "answer = Compiler().compile('f', flag).bound(VALUES)\n"
        "assert answer(None, None, {'version': '1.2', 'email': 'a'}) is True\n"
    )
    assert "control_plane.feature_flags.targeting_code" in modules
    assert modules & (FORBIDDEN | {"datetime", "enum"}) == set()


def test_a_flag_without_targeting_loads_nothing_of_flagds() -> None:
    modules = loaded(
        "from control_plane.feature_flags.compile import VALUES, Compiler\n"
        "flag = {'variants': {'on': True, 'off': False}, 'default': 'on'}\n"
        "assert Compiler().compile('f', flag).bound(VALUES) is True\n"
    )
    assert not {name for name in modules if "targeting" in name or "flagd" in name}
    assert "mmh3" not in modules


def test_an_agent_costs_a_json_parser_and_no_more(stocked: Any) -> None:
    modules = loaded(
        "from control_plane import ControlPlaneClient\n"
        f"client = ControlPlaneClient({str(stocked.root)!r}, 'production')\n"
        "agent = client.registry.get_agent('customer_support_agent')\n"
        "assert client.registry.validate_tool_compatibility('crm_tool', agent.tools)\n"
    )
    assert "json" in modules
    assert not modules & {"asyncio", "packaging", "logging", "threading", "ctypes", "dataclasses"}
