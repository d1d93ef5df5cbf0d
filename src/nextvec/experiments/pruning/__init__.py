"""Models made smaller after training: whole units removed, or single weights set to zero."""
