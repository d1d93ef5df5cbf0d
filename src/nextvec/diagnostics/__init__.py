"""Diagnostics: what is wrong with data, a model or a run, said in words beside the figures."""
