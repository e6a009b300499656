"""One process of the application: short transactions at a fixed rate, each timed from the moment
it was due, so that waiting behind a slow one counts (no coordinated omission).

``python -m bench.oltp.application ENGINE URL RATE SECONDS ACCOUNTS SEED``: says ``ready`` when it
is connected, begins at the monotonic moment it reads, and prints a line for each transaction:
when it was due and how long it took. The last line is the processor time it used.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator

import psycopg
import pymysql

from rivet_fleet.contracts.url import parse_database_url

Transaction = Callable[[int], None]
CPU = "cpu"
_STATEMENTS = (
    "SELECT note FROM history WHERE id = %s",
    "UPDATE account SET balance = balance + 1 WHERE id = %s",
    "INSERT INTO movement (account, amount) VALUES (%s, 1)",
)
"""A look at the big table that is extracted, a change and a new row: one transaction."""


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """When transactions are due, in seconds from the start: a Poisson stream, bounded."""
    chance = random.Random(seed)
    at_s = 0.0
    while (at_s := at_s + chance.expovariate(rate)) < seconds:
        yield at_s


def transactions(engine: str, url: str) -> Transaction:
    """Connect; a function that runs one transaction on an account."""
    if engine == "mariadb":
        where = parse_database_url(url)
        mariadb = pymysql.connect(
            host=where.host,
            port=where.port or 3306,
            user=where.user,
            password=where.password or "",
            database=where.database,
        )

        def on_mariadb(account: int) -> None:
            with mariadb.cursor() as cursor:
                for statement in _STATEMENTS:
                    cursor.execute(statement, (account,))
            mariadb.commit()

        return on_mariadb
    postgres = psycopg.connect(url, application_name="shop")

    def on_postgres(account: int) -> None:
        for statement in _STATEMENTS:
            postgres.execute(statement.encode(), (account,))
        postgres.commit()

    return on_postgres


def main(arguments: list[str]) -> int:
    """Run the stream once."""
    engine, url, rate, seconds, accounts, seed = arguments
    run = transactions(engine, url)
    run(1)
    print("ready", flush=True)
    began_s = float(sys.stdin.readline())
    cpu_s = time.process_time()
    chance = random.Random(int(seed))
    for due_s in arrivals(float(rate), float(seconds), int(seed)):
        left_s = began_s + due_s - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)
        run(chance.randint(1, int(accounts)))
        print(f"{due_s:.6f} {time.monotonic() - began_s - due_s:.6f}", flush=True)
        if time.monotonic() - began_s > 2 * float(seconds):
            break
    print(f"{CPU} {time.process_time() - cpu_s:.6f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
