"""Where training and judging meet: runs on the selection, many models under one protocol."""
