"""A small text decoder trained on the user's own (vector, text) pairs of a store."""

from nextvec.decoding.inverter.decoder import Inverter, Writing
from nextvec.decoding.inverter.state import InverterConfig
from nextvec.decoding.inverter.train import InverterResult, train_inverter

__all__ = ["Inverter", "InverterConfig", "InverterResult", "Writing", "train_inverter"]
