"""What `bench_training.py` and `gpu.py` measure: pipelines and their peers, ceilings, goals."""
