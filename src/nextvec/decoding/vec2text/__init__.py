"""vec2text, the published corrector, in a process and with pins of its own."""

from nextvec.decoding.vec2text.decoder import Vec2Text

__all__ = ["Vec2Text"]
