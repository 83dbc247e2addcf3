"""Real datasets: reading, checking, normalizing, reference scores, bundled files."""
