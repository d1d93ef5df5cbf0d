"""A client of `nextvec serve`, and a server's model as a predictor that the judge takes.

    with Client("http://127.0.0.1:8000") as client:
        raw = client.predict(vectors)                      # [T, D] -> [D], or [N, T, D] -> [N, D]
        client.predict_text("First paragraph. ...")["passages"]
        with client.session() as session:
            expected = session.push(vector)                # after every vector

Vectors travel as npy (float32, no pickle). Requests go to the address that was given and nowhere else:
redirects are not followed, proxies and .netrc of the environment are not used.
"""

from __future__ import annotations

from nextvec.client.api import Client, RemoteSession
from nextvec.client.predictor import RemotePredictor

__all__ = ["Client", "RemotePredictor", "RemoteSession"]
