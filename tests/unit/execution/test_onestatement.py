"""The end of the user's SQL, by each engine's rules: what may be dropped, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_fleet.errors import ConfigError
from rivet_fleet.execution.sources.mysql import statements as mysql
from rivet_fleet.execution.sources.postgres import statements as postgres

BOTH = [
    ("select 1", "select 1"),
    ("  select 1 ;;\n; ", "select 1"),
    ("select 1; -- the end", "select 1"),
    ("select 1 -- the end", "select 1 -- the end"),
    ("select 1 -- the end;", "select 1 -- the end;"),
    ("select 1 -- a\n; -- b; c\n", "select 1 -- a"),
    ("select 1; /* the; end */", "select 1"),
    ("/* before; */ select 1", "/* before; */ select 1"),
    ("select ';' ;", "select ';'"),
    ("select ';'", "select ';'"),
    ("select 'it''s; so' ;", "select 'it''s; so'"),
    ("select '-- no' ; -- yes", "select '-- no'"),
    ("select '/*' ; -- */", "select '/*'"),
    ('select ";" ;', 'select ";"'),
    ("select (1), ')' ;", "select (1), ')'"),
]
POSTGRES = [
    ("select 1; /* a /* b */ ; c */", "select 1"),
    ("select $$;$$ ;", "select $$;$$"),
    ("select $a$ $$; $b$ $a$ ;", "select $a$ $$; $b$ $a$"),
    ("select $ä1$;$ä1$;", "select $ä1$;$ä1$"),
    (r"select E'\'; -- ';", r"select E'\'; -- '"),
    (r"select e'\\'; -- '", r"select e'\\'"),
    ("select E'a'\n '\\';' ;", "select E'a'\n '\\';'"),
    ("select $1; --", "select $1"),
    ("select a$b$c; --", "select a$b$c"),
    (r"select 'c:\'; -- x", r"select 'c:\'"),
    ('select "a;""b" ;', 'select "a;""b"'),
    ("select 1--x\r; -- y", "select 1--x"),
    ("select 1 # 2;", "select 1 # 2"),
    (r"select U&'\0041' ;", r"select U&'\0041'"),
    ("select 5 --2;", "select 5 --2;"),
]
MYSQL = [
    ("select 1; # the end", "select 1"),
    ("select 1; # a; b\n -- c\n", "select 1"),
    ("select 5--2;", "select 5--2"),
    (r"select 'it\'s; so' ;", r"select 'it\'s; so'"),
    (r'select "it\"s; so" ;', r'select "it\"s; so"'),
    (r"select `a\` ;", r"select `a\`"),
    ("select `a``;b` ;", "select `a``;b`"),
    ("select 1 /*!40000 , 2 */ ;", "select 1 /*!40000 , 2 */"),
    ("select 1 /*M! , ';' /* in */ */ ;", "select 1 /*M! , ';' /* in */ */"),
    ("select 1 /* a /* b */ ;", "select 1 /* a /* b */"),
    ("select _utf8mb4'x;', X'41' ;", "select _utf8mb4'x;', X'41'"),
    # As NO_BACKSLASH_ESCAPES reads it.
    (r"select 'c:\' ; # x", r"select 'c:\'"),
]
REFUSED_BOTH = [
    ("select 1; select 2", "a second statement, 'select'"),
    ("select 1; -- a\n drop table x", "a second statement, 'drop'"),
    ("select 1) AS _rivet LIMIT 0; COMMIT", "closes a parenthesis"),
    ("select 1 as id) AS _rivet, (select 2", "closes a parenthesis"),
    ("select (1", "opens a parenthesis"),
    ("select 'a", "opens ', which nothing closes"),
    ("select 1 /* a", "opens a comment"),
    ("select 1 \0", "a NUL character"),
]
REFUSED_POSTGRES = [
    ("select 1 /* a /* b */", "opens a comment"),
    ("select $a$ x $b$", "opens $a$, which nothing closes"),
    ("select '\\'; select 2; --'", "a second statement"),
]
REFUSED_MYSQL = [
    ("select 1; /*! select 2 */", "a second statement, '/*!'"),
    ("select 1 /*! ; */", "a second statement, '*/'"),
    ("select 1 /*!50000 , 2", "opens a comment"),
    ("select `a", "opens `, which nothing closes"),
]


@pytest.mark.parametrize(("sql", "bare"), [*BOTH, *POSTGRES])
def test_what_ends_a_postgres_query_is_dropped(sql: str, bare: str) -> None:
    assert postgres.bare_query(sql) == bare


@pytest.mark.parametrize(("sql", "bare"), [*BOTH, *MYSQL])
def test_what_ends_a_mysql_query_is_dropped(sql: str, bare: str) -> None:
    assert mysql.bare_query(sql) == bare


@pytest.mark.parametrize(("sql", "said"), [*REFUSED_BOTH, *REFUSED_POSTGRES])
def test_what_is_no_single_postgres_query_is_refused(sql: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        postgres.bare_query(sql)
    assert said in refused.value.message


@pytest.mark.parametrize(("sql", "said"), [*REFUSED_BOTH, *REFUSED_MYSQL])
def test_what_is_no_single_mysql_query_is_refused(sql: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        mysql.bare_query(sql)
    assert said in refused.value.message


@pytest.mark.parametrize("bare_query", [postgres.bare_query, mysql.bare_query])
@given(sql=st.text("'\"`;-#/*!$()E\\\n a1é", max_size=40))
def test_whatever_is_taken_is_taken_again_as_it_is(bare_query, sql: str) -> None:
    try:
        bare = bare_query(sql)
    except ConfigError:
        return
    assert bare_query(bare) == bare
    assert bare_query(f"{bare}\n; -- behind") == bare
