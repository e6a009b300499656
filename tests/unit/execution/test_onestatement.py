"""The end of the user's SQL, by each engine's rules: what may be dropped, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_fleet.errors import ConfigError
from rivet_fleet.execution.sources.mysql import statements as mysql
from rivet_fleet.execution.sources.postgres import dialect as postgres

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
    ("\v select 1;\f\v\t ;", "select 1"),
]
POSTGRES = [
    (r"select e'\'; -- ';", r"select e'\'; -- '"),
    (r"select E'a''\'; -- ' ;", r"select E'a''\'; -- '"),
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
    ("select 1; --", "select 1"),
    ("select 1; --\tx; y", "select 1"),
    ("select 1; --\x7f', \x01", "select 1"),
    ('select /*+ BKA("t*") */ 1 ;', 'select /*+ BKA("t*") */ 1'),
    ("select 1; # the end", "select 1"),
    ("select 1; # a; b\n -- c\n", "select 1"),
    ("select 5--2;", "select 5--2"),
    (r"select 'it\'s; so' ;", r"select 'it\'s; so'"),
    (r'select "it\"s; so" ;', r'select "it\"s; so"'),
    (r"select `a\` ;", r"select `a\`"),
    ("select `a``;b` ;", "select `a``;b`"),
    ("select 1 /*!40000 , 2 */ ;", "select 1 /*!40000 , 2 */"),
    ("select 1 /*M! , (';') */ ;", "select 1 /*M! , (';') */"),
    ("select /*+ SET_VAR(a = 'x') BKA(`t`) */ 1 ;", "select /*+ SET_VAR(a = 'x') BKA(`t`) */ 1"),
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
    # A letter to the servers, whatever Unicode says of it.
    ("select 1;\u00a0", "a second statement"),
    ("select 1;\u3000", "a second statement"),
]
REFUSED_POSTGRES = [
    ("select 1\u00a0$$ ) as y; commit; select $$", "closes a parenthesis"),
    ("select $1$; $1$", "a second statement, '$1$'"),
    ("select 1 /* a /* b */", "opens a comment"),
    ("select $a$ x $b$", "opens $a$, which nothing closes"),
    ("select '\\'; select 2; --'", "a second statement"),
    # What PostgreSQL reads otherwise than it looks: names go on, numbers end, texts are continued.
    ("select 1 as x\u00a0$$ ) as y; commit; select $$", "closes a parenthesis"),
    ("select 1$$ '$$ ) as y; commit; --'", "closes a parenthesis"),
    ("select E'a' -- it\n'\\' , ') as y; commit; -- '", "closes a parenthesis"),
]
REFUSED_MYSQL = [
    ("select 1; /*! select 2 */", "a second statement, '/*!'"),
    ("select 1 /*! ; */", "a second statement, '*/'"),
    ("select 1 /*!50000 , 2", "opens a comment"),
    ("select `a", "opens `, which nothing closes"),
    ("select 1 /*M! , ';' /* in */ */ ;", "a comment within /*! … */"),
    ("select 1 /*!99999 , -- a\n */", "a comment within /*! … */"),
    # Where it is a comment, it ends elsewhere.
    ("select 1 /*!99999 ' */ ) as x into outfile 'f' -- ' */", "*/ in quotes within"),
    ("select 1 /*!99999 ( */ /*!40000 ) as x, (select 1 */", "within /*! … */"),
    ("select (1 /*!40000 ) as x, (select 1 */ )", "closes a parenthesis"),
    ("select /*+ BKA(`x*/ `) */ 1) as x union select (select 1 -- `", "a hint whose quotes"),
]
MODES = [
    ("", r"select 'a\' , ') as x into outfile x from (select 1 -- ' as b"),
    ("ANSI_QUOTES", r'select "a\" ) as x into outfile x from (select 1 -- " as b'),
    ("NO_BACKSLASH_ESCAPES", r"select 'a\') as x into outfile x from (select 1 -- ' as b"),
]
"""(mode, text that leaves its parentheses in it and is whole in another one)"""


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


@pytest.mark.parametrize(("mode", "sql"), MODES)
def test_a_query_is_whole_in_the_mode_it_is_read_in(mode: str, sql: str) -> None:
    assert mysql.bare_query(sql)
    with pytest.raises(ConfigError):
        mysql.bare_query(sql, (("sql_mode", f"STRICT_TRANS_TABLES,{mode}"),))


@pytest.mark.parametrize("bare_query", [postgres.bare_query, mysql.bare_query])
@given(sql=st.text("'\"`;-#/*!$()E\\\n a1é", max_size=40))
def test_whatever_is_taken_is_taken_again_as_it_is(bare_query, sql: str) -> None:
    try:
        bare = bare_query(sql)
    except ConfigError:
        return
    assert bare_query(bare) == bare
    assert bare_query(f"{bare}\n; -- behind") == bare
