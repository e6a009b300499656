"""Alembic's entry: runs on the connection, and in the transaction, that ``migrate.py`` holds."""

from alembic import context

from rivet_fleet.persistence.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    compare_type=True,
    compare_server_default=False,
)
with context.begin_transaction():
    context.run_migrations()
