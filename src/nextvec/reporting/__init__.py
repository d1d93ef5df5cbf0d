"""What a matrix or a run looks like: figures, tables, and one page that holds them all."""
