"""Vector in, vector out: the contract (`base`), the registry, the heads and one file per architecture."""
