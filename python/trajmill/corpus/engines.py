"""Who makes the shards: this process, or a Ray cluster. Both only call `make_shard` or what it is made of."""

from __future__ import annotations

from typing import Any

from trajmill.corpus.layout import CorpusError
from trajmill.corpus.mill import BlockDone, Mill, make_shard
from trajmill.corpus.sources import layout_of
from trajmill.corpus.storage import open_store

_RETRIES = 4
_TASKS_PER_NODE = 4


def local_engine(spec: dict[str, Any], shards: list[int], out: str, threads: int, block_done: BlockDone) -> None:
    """Make `shards` in this process."""
    Mill(spec, threads).make(shards, open_store(out), block_done)


def ray_engine(
    spec: dict[str, Any], shards: list[int], out: str, threads: int, block_done: BlockDone, *, address: str | None
) -> None:
    """Make `shards` as Ray tasks of `threads` CPUs each; `out` must be reachable from every node.

    Lost nodes and failing disks are met with retries: a shard made twice leaves the same files. `address` is that of a
    running cluster; None starts one on this machine.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise CorpusError("engine ray needs Ray: pip install 'trajmill[ray]'") from None
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, include_dashboard=False if address is None else None, log_to_driver=False)
    try:
        remote = ray.remote(num_cpus=threads, max_retries=_RETRIES, retry_exceptions=[OSError])(make_shard)
        ahead = _TASKS_PER_NODE * max(1, len(ray.nodes()))
        waiting, running = list(reversed(shards)), dict[Any, int]()
        layout = layout_of(spec)
        while waiting or running:
            while waiting and len(running) < ahead:
                shard = waiting.pop()
                running[remote.remote(spec, shard, out, threads)] = shard
            done, _ = ray.wait(list(running), num_returns=1)
            ray.get(done)
            for reference in done:
                block_done(len(layout.rows(running.pop(reference))))
    finally:
        if ours:
            ray.shutdown()
