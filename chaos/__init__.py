"""Chaos over real processes and real servers, judged by an oracle that trusts nobody."""
