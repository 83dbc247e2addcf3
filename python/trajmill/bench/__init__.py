"""Benchmarks of data throughput: ``trajmill bench`` and `benchmarks/` of a checkout measure with the same code.

A subject is a file: `sampler`, `corpus`, `replay`, `feed` and `training`. Each gives groups of contenders: trajmill,
the peers that are installed, and limits of the machine. All contenders of a group are timed in turns, so that whatever
slows the machine for a while slows all of them (`measure`). `run` shares the time among the groups and makes a
`Result`.
"""
