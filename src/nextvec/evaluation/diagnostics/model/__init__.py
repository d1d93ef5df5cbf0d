"""Diagnosis of one predictor in one exam: `diagnosis.diagnose` gives every part, `text` prints them.

Each part is a frozen dataclass that says in words what it found (`verdicts`), shows it (`lines`) and gives it
as JSON (`to_json`).
"""
