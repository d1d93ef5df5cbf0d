"""Sizes that pages are looked at in, in CSS pixels."""

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 400, "height": 900}
PAPER = {"width": 1047, "height": 718}
"""A landscape A4 page within margins of 1 cm."""
