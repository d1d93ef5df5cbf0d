"""Operators that several architectures share, each beside a slow, obvious reference."""
