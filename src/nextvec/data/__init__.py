"""From stored documents to splits, windows and batches, all as row numbers of the store."""
