"""Vectors -> text: the nearest chunks, or decoders that write. Nothing here imports training."""
