"""What the conformance suites share: every store, and real small filesystems."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rivet_fleet.persistence.store import Store
from tests.stores import Backend, MemoryBackend, SqlBackend, sqlite_backend


@pytest.fixture
def small_filesystem(tmp_path: Path) -> Iterator[Path]:
    """A real filesystem of one megabyte; needs the right to mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small filesystem needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def read_only_filesystem(tmp_path: Path) -> Iterator[Path]:
    """A real filesystem mounted read-only; needs the right to mount."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a read-only filesystem needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module", params=["memory", "sqlite", "postgres"])
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    if request.param == "memory":
        yield MemoryBackend()
        return
    if request.param == "sqlite":
        backend = sqlite_backend(tmp_path_factory.mktemp("state"))
    else:
        server = request.getfixturevalue("postgres")
        backend = SqlBackend(server.create_database(request.module.__name__.rpartition(".")[2]))
    yield backend
    backend.store.close()


@pytest.fixture
def backend(opened: Backend) -> Backend:
    opened.wipe()
    return opened


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.store
