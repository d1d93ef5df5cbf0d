"""One reader per format; `nextvec.corpus.documents` is their front."""
