"""One file per architecture, named as the architecture is. The registry finds them by their file names."""
