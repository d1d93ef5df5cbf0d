"""Operators of the architectures. Their slow, obvious references: tests/parity/operators.py."""
