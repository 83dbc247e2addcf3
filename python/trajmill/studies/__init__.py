"""The tables and figures of papers as data: what to train, what to measure, and what the paper printed."""
