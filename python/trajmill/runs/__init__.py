"""Run directories: made, trained in, joined from several processes, and read. Knows no method by name."""
