"""A password is nowhere: not in a repr, an error, a digest's input, a plan or a warning."""

from __future__ import annotations

import itertools
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import BaseModel

from rivet_fleet.contracts.codec import dumps
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution import registry
from rivet_fleet.planning.config import digests
from rivet_fleet.planning.config.connections import source_connection, state_url
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.models import DestinationConfig, FleetConfig
from rivet_fleet.planning.config.problems import ConfigKey
from rivet_fleet.planning.planner import new_campaign_id, plan_campaign
from tests.unit.planning.conftest import Loader
from tests.unit.planning.shapes import table

PASSWORDS = [f"Hunt{d}er{d}2sesame" for d in "/?#@:%"] + ["a/b?c#d@e:f%g", "ünï/cödé@x"]
EXPORT = """\
exports:
  - name: orders
    table: public.orders
    format: parquet
    destination: {type: local, path: out}
"""
SHAPES = {
    "url": "source:\n  type: postgres\n  url: 'postgresql://u:${PW}@127.0.0.1/d'\n",
    "option": "source:\n  type: postgres\n  url: 'postgresql://u@127.0.0.1/d?password=${PW}'\n",
    "field": "source:\n"
    "  {type: postgres, host: localhost, user: u, database: d, password: '${PW}'}\n",
    "env": "source:\n  {type: postgres, host: localhost, user: u, database: d, password_env: PW}\n",
    "url_env": "source:\n  type: postgres\n  url_env: URL\n",
    "url_file": "source:\n  type: postgres\n  url_file: url.txt\n",
    "state": "state: {url: 'postgresql://u:${PW}@h/d'}\nsource: {type: postgres, url_env: URL}\n",
}


def environment(password: str, encoded: bool) -> dict[str, str]:
    shown = quote(password, safe="") if encoded else password
    return {"PW": shown, "URL": f"postgresql://u:{shown}@127.0.0.1/d"}


def assert_hidden(text: str, password: str) -> None:
    assert password not in text
    assert quote(password, safe="") not in text


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_secret_in_anything_that_is_shown(
    load_text: Loader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
    password: str,
) -> None:
    encoded = shape not in ("field", "env")
    environ = environment(password, encoded)
    (tmp_path / "url.txt").write_text(environ["URL"] + "\n")
    digested: list[bytes] = []
    real = digests.canonical_json

    def spy(plain: object) -> bytes:
        digested.append(real(plain))
        return digested[-1]

    monkeypatch.setattr(digests, "canonical_json", spy)
    loaded = load_text(SHAPES[shape] + EXPORT, environ=environ)
    connection = source_connection(loaded, "default")
    if shape not in ("state", "option"):
        assert connection.url.password == password
    plan = plan_campaign(
        loaded,
        {"orders": table()},
        campaign_id=new_campaign_id(0),
        connections={"default": connection},
    )
    assert digested
    for shown in (
        repr(loaded),
        str(loaded),
        repr(loaded.config),
        str(loaded.config),
        loaded.config.model_dump_json(),
        repr(connection),
        str(connection.url),
        connection.identity,
        dumps(plan),
        repr(plan),
        *loaded.warnings,
        *(one.decode() for one in digested),
    ):
        assert_hidden(shown, password)
    if shape != "url_file":
        assert password in loaded.secrets


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "wrong",
    [
        "url: {x: '${PW}'}",
        "url: ['${PW}']",
        "pasword: '${PW}'",
        "url: 'postgresql://u:${PW}@host.example/d'\n  port: 5",
        "url: 'u:${PW}@host/d'",
        "url: 'postgresql://u:${PW}@host:port/d'",
        "type: '${PW}'",
        "host: '${PW}'\n  port: '${PW}'",
        "tls: '${PW}'",
        "environment: '${PW}'",
        "tuning: {profile: '${PW}'}",
    ],
)
def test_no_secret_in_any_refusal(load_text: Loader, wrong: str, password: str) -> None:
    head = "source:\n" + ("" if wrong.startswith("type") else "  type: postgres\n")
    with pytest.raises(ConfigError) as caught:
        loaded = load_text(head + f"  {wrong}\n" + EXPORT, environ={"PW": password})
        source_connection(loaded, "default")
    assert_hidden(f"{caught.value!r} {caught.value.message} {caught.value.hint}", password)
    assert caught.value.__cause__ is None


def test_a_remote_host_without_tls_is_refused_without_its_password(load_text: Loader) -> None:
    text = "source:\n  type: postgres\n  url: postgresql://u:sesame99@db.example/d\n" + EXPORT
    loaded = load_text(text)
    with pytest.raises(ConfigError, match=r"fleet.yaml:2:3: source: host db.example is remote"):
        source_connection(loaded, "default")


def test_a_password_in_the_file_is_a_warning(load_text: Loader) -> None:
    text = SHAPES["field"].replace("${PW}", "sesame99") + EXPORT
    assert any("use password_env" in one for one in load_text(text).warnings)


def test_the_digest_is_the_same_for_another_password(load_text: Loader) -> None:
    digests = {
        load_text(SHAPES[shape] + EXPORT, environ=environment(password, True)).digest
        for password in ("first-one", "second-one")
        for shape in ("url",)
    }
    assert len(digests) == 1


def test_the_state_url_is_known_as_a_secret(load_text: Loader) -> None:
    loaded: LoadedConfig = load_text(
        SHAPES["state"] + EXPORT, environ=environment("sesame99", True)
    )
    assert "sesame99" in state_url(loaded)
    assert "sesame99" in loaded.secrets


def test_only_named_variables_are_kept(load_text: Loader) -> None:
    loaded = load_text(SHAPES["env"] + EXPORT, environ={"PW": "sesame99", "OTHER": "x"})
    assert dict(loaded.environ) == {"PW": "sesame99"}


SECRET = "Zx9-S3cretToken-Qq"
HTTP = (
    "source_groups:\n  prod:\n    max_running_chunks: 1\n    monitor:\n      signals:\n"
    "        s: {http: 'WHAT', pause_above: 5}\n"
)
MISPLACED = {
    "path": EXPORT.replace("path: out", "path: 'out/${tok}'"),
    "name": "campaign: {name: '${tok}'}\n" + EXPORT,
    "spool": "spool_dir: './${tok}'\n" + EXPORT,
    "flag": "source_groups: {prod: {monitor: {flag_file: '/tmp/${tok}'}}}\n" + EXPORT,
    "table": EXPORT.replace("public.orders", "'public.${tok}'"),
    "a refused value": EXPORT.replace("format: parquet", "format: '${tok}'"),
    "unknown key": EXPORT + "    nonsense: ${tok}\n",
    "by its name": EXPORT.replace("path: out", "path: 'out/${my_token}'"),
    **{
        part: HTTP.replace("WHAT", url) + EXPORT
        for part, url in {
            "http path": "http://127.0.0.1:9/${tok}/x",
            "http user": "http://${tok}@127.0.0.1:9/x",
            "http host": "http://${tok}.invalid/x",
            "http fragment": "http://127.0.0.1:9/x?a=1#${tok}",
            "http parameter": "http://127.0.0.1:9/x;key=${tok}",
            "http before": "http://127.0.0.1:9/${tok}?key=${tok}",
        }.items()
    },
}
DECLARED = (
    "source: {type: postgres, url: 'postgresql://u@127.0.0.1/d'}\nparams: {tok: {secret: true}}\n"
)


@pytest.mark.parametrize("place", MISPLACED)
def test_a_secret_parameter_in_plain_places_is_refused(load_text: Loader, place: str) -> None:
    given = {"tok": SECRET, "my_token": SECRET}
    with pytest.raises(ConfigError, match="secret parameter") as told:
        load_text(DECLARED + MISPLACED[place], params=given)
    assert_hidden(f"{told.value.message} {told.value.hint}", SECRET)
    plain = DECLARED.replace("true}", "false}, my_token: {secret: false}")
    if "http" not in place and place not in ("name", "table", "a refused value", "unknown key"):
        load_text(plain + MISPLACED[place], params=given)


@pytest.mark.parametrize(
    "text",
    [
        HTTP.replace("WHAT", "http://127.0.0.1:9/x?key=${tok}") + EXPORT,
        EXPORT.replace("table: public.orders", "query: 'select 1 where ''${tok}'' = v'"),
        "state: {url: 'postgresql://u:${tok}@h/d?sslmode=verify-full'}\n" + EXPORT,
        EXPORT,
    ],
    ids=["signal", "sql", "state", "nowhere"],
)
def test_a_secret_parameter_stays_where_it_is_hidden(load_text: Loader, text: str) -> None:
    loaded = load_text(DECLARED + text, params={"tok": SECRET})
    assert SECRET in loaded.secrets


def test_a_hint_can_be_read_although_it_speaks_of_secrets(load_text: Loader) -> None:
    with pytest.raises(ConfigError) as told:
        load_text(DECLARED + MISPLACED["by its name"], params={"tok": "x", "my_token": SECRET})
    assert "if my_token is none, set its `secret` under `params` to false" in (
        told.value.hint or ""
    )


def test_what_nobody_reads_may_hold_a_secret(load_text: Loader) -> None:
    text = "notifications: {slack: {url: '${tok}'}}\nignored_settings: [notifications]\n" + EXPORT
    loaded = load_text(DECLARED + text + "    load: {password: '${tok}'}\n", params={"tok": SECRET})
    assert len(loaded.warnings) == 2
    assert_hidden(f"{loaded.warnings} {loaded.config!r} {loaded.config.model_dump_json()}", SECRET)


# ------------------------------------------------------------------------------------------
# Every setting there is, and every way to call a secret.

WAYS = {
    "a secret parameter": ("tok", {"params": {"tok": {"secret": True}}}),
    "its variable": ("HELD", {"params": {"tok": {"secret": True, "env": "HELD"}}}),
    "another name of its variable": (
        "alias",
        {"params": {"tok": {"secret": True, "env": "HELD"}, "alias": {"env": "HELD"}}},
    ),
    "a variable that is called one": ("alias", {"params": {"alias": {"env": "MY_TOKEN"}}}),
    "what password_env names": ("HELD", {"source": {"password_env": "HELD"}}),
    "what key_env names": ("HELD", {"state": {"key_env": "HELD"}}),
    "the state's own": ("RIVET_FLEET_STATE_URL", {}),
}
HIDDEN_AT: set[ConfigKey] = {
    ("source", "password"),
    ("sources", "k", "password"),
    ("exports", 0, "query"),
    ("source_groups", "k", "monitor", "signals", "k", "sql"),
}


def settings_of(annotation: Any, at: ConfigKey) -> Iterator[ConfigKey]:
    """Every place of the configuration that holds one value."""
    models = [annotation, *typing.get_args(annotation)]
    if typing.get_origin(annotation) in (dict, tuple):
        step: ConfigKey = ("k",) if typing.get_origin(annotation) is dict else (0,)
        yield from settings_of(typing.get_args(annotation)[step == ("k",)], (*at, *step))
        return
    for model in models:
        if isinstance(model, type) and issubclass(model, BaseModel):
            for name, field in model.model_fields.items():
                yield from settings_of(field.annotation, (*at, name))
            if model is DestinationConfig:
                for kind in registry.destination_kinds().values():
                    yield from ((*at, name) for name in kind.settings)
            return
    yield at


def written(plain: dict[str, Any], at: ConfigKey, text: str) -> str:
    """The configuration with ``text`` at one place, as JSON, which is YAML."""
    plain = json.loads(json.dumps(plain))
    here: Any = plain
    for step, following in itertools.pairwise(at):
        if isinstance(here, list) and not here:
            here.append({})
        kind: Any = [] if isinstance(following, int) else {}
        here = here[step] if isinstance(here, list) else here.setdefault(step, kind)
    if isinstance(here, list):
        here[:] = [text]
    else:
        here[at[-1]] = text
    return json.dumps(plain)


@pytest.mark.parametrize("way", WAYS)
def test_a_secret_is_refused_wherever_it_would_be_shown(load_text: Loader, way: str) -> None:
    name, plain = WAYS[way]
    given = dict.fromkeys((name, "HELD", "MY_TOKEN", "tok"), SECRET)
    places = sorted({*settings_of(FleetConfig, ())}, key=str)
    assert len(places) > 100
    # Of one way every place; of each other, which differs in nothing but the name, some.
    for at in places if name == "alias" else places[::7]:
        for text in (f"${{{name}}}", f"a${{{name}}}b"):
            told = "nothing"
            try:
                load_text(written(plain, at, text), environ=given)
            except ConfigError as error:
                told = f"{error.message} {error.hint} {error.code}"
            assert_hidden(told, SECRET)
            whole = way == "the state's own" and at[-1] == "url"
            # What named the secret is what was written over.
            unnamed = len(at) == 2 and plain.get(at[0], {}).get(at[1]) == name
            if at not in HIDDEN_AT and not whole and not unnamed:
                assert "which plans, the state and messages would show here" in told, (at, told)


URLS = ("source", "state")
HOLDING = {
    "user": "postgresql://${tok}:x@127.0.0.1/d",
    "host": "postgresql://u@${tok}.invalid/d?sslmode=disable",
    "port": "postgresql://u@127.0.0.1:${tok}/d",
    "database": "postgresql://u:${tok}@127.0.0.1/${tok}",
    "option": "postgresql://u@127.0.0.1/d?application_name=${tok}",
    "scheme": "${tok}://u@127.0.0.1/d",
    "whole": "${tok}",
    "no URL": "/somewhere/${tok} else",
    "a file": "sqlite:////tmp/a ${tok}/x.db",
}


@pytest.mark.parametrize("block", URLS)
@pytest.mark.parametrize("place", HOLDING)
def test_of_a_url_the_password_alone_is_a_place_for_secrets(
    load_text: Loader, block: str, place: str
) -> None:
    plain = DECLARED if block == "state" else "params: {tok: {secret: true}}\n"
    kind = "" if block == "state" else "type: postgres, "
    text = f"{block}: {{{kind}url: '{HOLDING[place]}'}}\n"
    value = {"port": "5433", "whole": "postgresql://u@127.0.0.1:5433/d"}.get(place, "s3cretWord")
    with pytest.raises(ConfigError, match="secret parameter") as told:
        load_text(plain + text + EXPORT, params={"tok": value})
    assert told.value.code == "RIVET_CONFIG_SECRET_MISPLACED"
    assert "url_env" in (told.value.hint or "")
    assert_hidden(f"{told.value.message} {told.value.hint}", value)


@pytest.mark.parametrize("url", ["postgresql://u:${tok}@127.0.0.1/d", "${URL}"])
def test_a_url_takes_a_password_and_a_variable_that_holds_it_whole(
    load_text: Loader, url: str
) -> None:
    text = "params: {tok: {secret: true}}\nstate: {url_env: URL}\n"
    text += f"source: {{type: postgres, url: '{url}'}}\n" + EXPORT
    values = {"tok": SECRET, "URL": f"postgresql://u:{SECRET}@127.0.0.1/d"}
    loaded = load_text(text, environ=values)
    assert source_connection(loaded, "default").url.password == SECRET
    assert SECRET in loaded.secrets


def test_a_password_that_becomes_a_host_is_refused(load_text: Loader) -> None:
    text = "params: {tok: {secret: true}}\n"
    text += "source: {type: postgres, url: 'postgresql://u:${tok}@127.0.0.1/d'}\n" + EXPORT
    with pytest.raises(ConfigError, match="more of the URL than a password") as told:
        load_text(text, params={"tok": "x@db.example/d?a=b"})
    assert_hidden(told.value.message, "db.example")


def test_what_is_called_columns_elsewhere_names_secrets_like_any_other(load_text: Loader) -> None:
    """Below an export they are called as their table calls them; a source may have the name."""
    login = "{type: postgres, host: h, user: u, database: d, password_env: PW}"
    export = EXPORT.replace("table:", "source: columns\n    table:")
    export = export.replace("path: out", "path: '${PW}/out'")
    text = f"sources:\n  columns: {login}\n{export}"
    with pytest.raises(ConfigError) as told:
        load_text(text, environ={"PW": SECRET})
    assert told.value.code == "RIVET_CONFIG_SECRET_MISPLACED"
    assert_hidden(f"{told.value.message} {told.value.hint}", SECRET)
