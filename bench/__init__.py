"""The benchmark: this product beside its peers on the same data, server and machine.

``python -m bench`` does everything; docs/explanation/benchmarks.md has the method.
"""
