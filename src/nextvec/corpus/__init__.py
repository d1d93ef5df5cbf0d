"""Documents -> chunks -> vectors: readers, chunkers, encoders and the store."""
