"""What `bench_training.py` measures: methods and their peers, ceilings, goals."""
