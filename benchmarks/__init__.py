"""Measurements that the documentation quotes. Each module prints the table it commits.

Run them from a checkout: ``python -m benchmarks.reconstruction``.
"""
