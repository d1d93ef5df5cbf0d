"""The command line: one short file a verb, each loaded only when its verb is used."""
