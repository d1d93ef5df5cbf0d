"""Decoders on trial: held-out vectors in, texts out, encoded again and compared with what is true."""
