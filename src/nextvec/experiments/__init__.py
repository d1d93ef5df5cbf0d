"""Where training and judging meet: runs on the exam, many models under one protocol."""
