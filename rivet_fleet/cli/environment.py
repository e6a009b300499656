"""Everything the program reads from its environment, read here and nowhere below."""

from __future__ import annotations

import ctypes
import getpass
import json
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rivet_fleet.cli.say import say
from rivet_fleet.contracts.killpoints import arm, parse_armings
from rivet_fleet.contracts.places import stranger_at
from rivet_fleet.contracts.seals import EVERYTHING, Allowed, words
from rivet_fleet.coordination.fleet import PARENT_DEATH_SIGNAL
from rivet_fleet.errors import UsageError

PARAMS = "RIVET_FLEET_PARAMS"
"""``--param`` values for spawned workers: a command line would show them to everybody."""
SUPERVISOR_PID = "RIVET_FLEET_SUPERVISOR_PID"
STATE_URL = "RIVET_FLEET_STATE_URL"
ALLOW_SOURCE = "RIVET_FLEET_ALLOW_SOURCE"
ALLOW_DESTINATION = "RIVET_FLEET_ALLOW_DESTINATION"
"""What this process may read and where it may write, one word a line; options of the command line
take their place."""
NAMESPACE = "RIVET_FLEET_NAMESPACE"
CONFIG = "RIVET_FLEET_CONFIG"
"""The configuration where no ``-c`` names one and no file of the default name lies here."""
CONFIG_DEFAULT = Path("fleet.yaml")
TEST_KILL = "RIVET_FLEET_TEST_KILL"
TEST_HOST_ID = "RIVET_FLEET_TEST_HOST_ID"
TESTING = "RIVET_FLEET_TESTING"
"""The second switch: without it no hook of the tests acts, whoever set its variable."""
_HOOKS = (TEST_KILL, TEST_HOST_ID)

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The environment as values."""

    variables: dict[str, str]
    params: dict[str, str]
    supervisor_pid: int | None
    host_id: str | None
    allowed: Allowed = EVERYTHING


def read_environment() -> Environment:
    """Read it once; arm kill points when a test asks for them. Raises UsageError."""
    variables = dict(os.environ)
    hooks = _hooks(variables)
    try:
        params = json.loads(variables.get(PARAMS, "{}"))
        arm(parse_armings(hooks.get(TEST_KILL, "")))
        pid = variables.get(SUPERVISOR_PID)
        supervisor_pid = int(pid) if pid else None
    except ValueError as error:
        raise UsageError(f"an environment variable cannot be read: {error}") from None
    return Environment(
        variables=variables,
        params={str(k): str(v) for k, v in params.items()},
        supervisor_pid=supervisor_pid,
        host_id=hooks.get(TEST_HOST_ID),
        allowed=Allowed(
            sources=words(variables.get(ALLOW_SOURCE)),
            destinations=words(variables.get(ALLOW_DESTINATION)),
        ),
    )


def config_path(given: Path | None) -> Path:
    """The configuration of a command: the one that is given, else ``fleet.yaml`` of this folder,
    else what RIVET_FLEET_CONFIG names. Raises UsageError."""
    if given is not None:
        return given
    named = os.environ.get(CONFIG)
    if CONFIG_DEFAULT.is_file():
        if named and Path(named).absolute() != CONFIG_DEFAULT.absolute():
            say(f"{CONFIG_DEFAULT} of this folder goes before {CONFIG}={named}", err=True)
        _refuse_strangers(CONFIG_DEFAULT)
        return CONFIG_DEFAULT
    if named:
        return Path(named)
    raise UsageError(
        f"which configuration? There is no {CONFIG_DEFAULT} here, and {CONFIG} is not set",
        hint="-c FILE names one; `rivet-fleet init` writes one",
        code="RIVET_CONFIG_NOT_NAMED",
    )


def _refuse_strangers(found: Path) -> None:
    """Who may put a file into a shared folder does not choose by it whose state and key count."""
    what = stranger_at(found)
    if what is not None:
        raise UsageError(
            f"the configuration {found.absolute()}, which nobody named, {what}",
            hint="look at it, and name it with -c if it is the one that is meant",
            code="RIVET_CONFIG_NOT_OURS",
        )


def _hooks(variables: Mapping[str, str]) -> dict[str, str]:
    """The hooks that act: none without the second switch, and none without a word."""
    found = {name: variables[name] for name in _HOOKS if variables.get(name)}
    if not found:
        return {}
    names = " and ".join(found)
    if variables.get(TESTING) != "1":
        say(f"warning: {names} is ignored: hooks of tests act where {TESTING}=1 alone", err=True)
        return {}
    say(f"warning: a hook of tests acts here ({names}, {TESTING}=1): not for production", err=True)
    return found


def operator() -> str:
    """Who runs this process, for what must be signed: ``user@host``."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def die_with_supervisor(supervisor_pid: int) -> None:
    """Ask the kernel for a signal when the supervisor dies, however it dies.

    It may have died before we asked: then nobody would ever tell us, so leave now. Under
    nohup the signal would be ignored by inheritance.
    """
    signal.signal(PARENT_DEATH_SIGNAL, signal.SIG_DFL)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, PARENT_DEATH_SIGNAL)
    if os.getppid() != supervisor_pid:
        os.kill(os.getpid(), PARENT_DEATH_SIGNAL)


def worker_environment(
    environment: Environment, *, params: dict[str, str], state_url: str
) -> dict[str, str]:
    """What a spawned worker gets: ours, plus what must not stand on its command line."""
    return {
        **environment.variables,
        PARAMS: json.dumps(params),
        SUPERVISOR_PID: str(os.getpid()),
        STATE_URL: state_url,
    }
