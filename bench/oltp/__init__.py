"""What an application feels while its database is extracted: ``python -m bench.oltp``."""
