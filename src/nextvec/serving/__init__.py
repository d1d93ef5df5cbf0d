"""The server: models behind HTTP. `nextvec serve` runs it; it needs the extra `serve`.

    request -> gateway -> routes/* -> models (batching) or work (threads) -> answer

`gateway.py` stands outside of everything: it refuses what is too much, reads bodies in bounded time and
memory, and writes what happened (request ids, metrics, the log). Behind it a route has the whole body.
"""
