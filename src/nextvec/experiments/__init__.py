"""Where training and evaluation meet: runs on the selection, many models under one protocol."""
