"""The compiled decoders. Everything else about the package stands in pyproject.toml.

They are optional: where there is no C compiler the plain-Python decoders do the same work,
slowly, and say so once.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SOURCES = sorted(Path("rivet_fleet").rglob("*.pyx"))
HEADERS = sorted(Path("rivet_fleet").rglob("*.pxd")) + sorted(Path("rivet_fleet").rglob("*.h"))
extensions = [
    Extension(
        ".".join(source.with_suffix("").parts),
        [str(source)],
        include_dirs=["rivet_fleet/execution"],
        depends=[*map(str, HEADERS)],
        extra_compile_args=["-O3"],
        optional=True,
    )
    for source in SOURCES
]

setup(
    ext_modules=cythonize(extensions, build_dir="build/cython"),
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
