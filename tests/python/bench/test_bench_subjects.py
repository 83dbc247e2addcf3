"""Every subject of `trajmill bench` at the smallest size: rates, limits and peers that do what they claim."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

import trajmill as tm
from trajmill import _core
from trajmill.algorithms import method_names
from trajmill.bench import corpus, limits, replay, run, sampler
from trajmill.bench.group import Options
from trajmill.bench.record import Result

SIZES = {"sequences": 64, "rows": 2000, "mebibytes": 1, "tiny": True}


def measured(subject: str, tmp_path: Path, **changes: object) -> Result:
    options = Options(**({"threads": 1, "folder": tmp_path} | SIZES | changes))  # type: ignore[arg-type]
    found = run.bench(subject, options, 0.01)
    assert all(0 < rate.low <= rate.value <= rate.high and rate.blocks >= 3 for rate in found.rows)
    assert not [each for each in found.missing if not each.reason.startswith("not installed: pip install ")]
    assert list(tmp_path.iterdir()) == [], "a benchmark leaves nothing behind"
    return found


def roles(found: Result) -> set[tuple[str, str]]:
    return {(rate.group, rate.role) for rate in found.rows}


def test_the_sampler(tmp_path: Path) -> None:
    found = measured("sampler", tmp_path, threads=2)
    titles = list(dict.fromkeys(rate.group for rate in found.rows))
    assert len(titles) == 7 and all((title, "ours") in roles(found) for title in titles)
    assert all(rate.limit is not None for rate in found.rows if rate.role == "ours")
    levels = [rate.name for rate in found.rows if "instruction set" in rate.group and rate.role == "ours"]
    assert levels == _core.available_simd_levels()
    names = {rate.name for rate in found.rows if rate.role == "peer"} | {each.peer for each in found.missing}
    assert names == {"numba, a loop over alias tables", "NumPy, all sequences together", "the paper's program (NumPy)"}


def test_the_instruction_set_is_given_back(tmp_path: Path) -> None:
    before = _core.simd_level()
    options = Options(threads=1, sequences=4)
    run.measured("sampler", [sampler.instruction_sets], options, 0.01)
    assert _core.simd_level() == before


def test_the_corpus(tmp_path: Path) -> None:
    found = measured("corpus", tmp_path)
    assert [rate.name for rate in found.rows if rate.role == "limit"] == [
        *("sampler", "disk writes", "disk reads", "copying rows")
    ]
    assert {"nanoGPT's way (np.memmap)", "Megatron's way (index, one buffer)"} <= {rate.name for rate in found.rows}


def test_every_writer_writes_the_size_that_counts(tmp_path: Path) -> None:
    """Also one that is no multiple of a block of 64 MiB."""
    with ExitStack() as stack:
        group = corpus.writing(Options(threads=1, folder=tmp_path, mebibytes=67), stack)
        for entry in group.entries:
            if entry.contender.name == corpus.SAMPLER:
                continue
            entry.contender.before()
            entry.contender.run(1)
            size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
            assert 67 * 2**20 <= size < 67.1 * 2**20, entry.contender.name
            entry.contender.before()


def test_a_full_disk_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs .* GB of free space .*--folder.*--mebibytes"):
        run.bench("corpus", Options(threads=1, folder=tmp_path, mebibytes=2**23), 0.01)
    assert list(tmp_path.iterdir()) == []


def test_replay(tmp_path: Path) -> None:
    found = measured("replay", tmp_path)
    assert len({rate.group for rate in found.rows if rate.role == "ours"}) == 7
    assert {"memory reads", "a look-up a row", "memory writes"} == {
        rate.name for rate in found.rows if rate.role == "limit"
    }


def test_the_feed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    found = measured("feed", tmp_path)
    ours = [rate.name for rate in found.rows if rate.role == "ours"]
    assert ours == 3 * ["tm.feed, drawn ahead", "buffer.to, drawn on the device"]
    assert "torch DataLoader, a batch at a time" in {rate.name for rate in found.rows}


def test_training_is_measured_for_every_method(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    found = measured("training", tmp_path)
    assert [rate.group.partition(",")[0] for rate in found.rows if rate.role == "ours"] == method_names()
    assert all(rate.limit == "matrix products" for rate in found.rows if rate.role == "ours")


def test_products_are_those_of_the_updates() -> None:
    """Forward, and back to the weights and to the inputs of all layers but the first."""
    torch = pytest.importorskip("torch")
    from trajmill.bench import training

    first, second = (torch.randn(5, 6, requires_grad=True), torch.randn(6, 2, requires_grad=True))
    inputs, shapes = torch.randn(3, 5), []

    def work() -> None:
        torch.addmm(torch.zeros(2), inputs @ first, second).sum().backward()

    alone = training.products(work, torch.device("cpu"))
    matmul = torch.matmul

    def noting(one, other, **options):
        shapes.append((tuple(one.shape), tuple(other.shape)))
        return matmul(one, other, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "matmul", noting)
        alone()
    assert sorted(shapes) == sorted(
        [((3, 5), (5, 6)), ((3, 6), (6, 2)), ((6, 3), (3, 2)), ((3, 2), (2, 6)), ((5, 3), (3, 6))]
    )


def test_a_large_batch_is_made_smaller_on_a_cpu() -> None:
    pytest.importorskip("torch")
    from trajmill.algorithms import method_named
    from trajmill.bench.training import LONGEST_UPDATE, smaller

    for name in method_names():
        method = method_named(name)
        slow = getattr(method, "SECONDS", (0.01, 0.01))[0] > LONGEST_UPDATE
        assert bool(smaller(name)) == slow
        assert not slow or 1 <= smaller(name)["batch_size"] < method.Config().batch_size


def test_unknown_subjects_are_refused() -> None:
    with pytest.raises(ValueError, match="subject must be one of"):
        run.bench("network", Options(threads=1), 1.0)


# --- peers and limits do the work that they are timed for ---


def test_peers_of_the_sampler_draw_from_the_chain() -> None:
    chain = tm.MarkovChain(state_count=5, temperature=0.2, seed=1)
    rows = np.array([chain.probabilities([state]) for state in range(5)])
    drawn = {"NumPy": np.array(sampler.numpy_chain(rows, 2000, 40)())}
    try:
        out = np.zeros((2000, 40), np.uint8)
        sampler.numba_chain(rows, out)()
        drawn["numba"] = out
    except ModuleNotFoundError:
        pass
    for name, tokens in drawn.items():
        counts = np.zeros((5, 5))
        np.add.at(counts, (tokens[:, :-1].ravel(), tokens[:, 1:].ravel()), 1)
        np.testing.assert_allclose(counts / counts.sum(1, keepdims=True), rows, atol=0.03, err_msg=name)


def test_the_papers_program_gives_the_reference_tokens() -> None:
    ours = tm.reference.markov_tokens(1, 100, 1.0, 666, 1, 4, 20, 0)
    np.testing.assert_array_equal(sampler.authors_tokens(100, 1.0, 666, 4, 20), ours)


def test_readers_give_rows_of_the_corpus(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(256, size=(100, corpus.LENGTH), dtype=np.uint8)
    rows.tofile(tmp_path / "flat.bin")
    random = np.random.default_rng(1)
    (batch, crop) = (corpus.indexed(tmp_path / "flat.bin", random)(), corpus.crops(tmp_path / "flat.bin", random)())
    assert batch.shape == crop.shape == (corpus.BATCH, corpus.LENGTH) and batch.dtype == crop.dtype == np.int64
    assert {row.tobytes() for row in batch.astype(np.uint8)} <= {row.tobytes() for row in rows}
    assert all(row.tobytes() in rows.tobytes() for row in crop.astype(np.uint8)[:8])


def test_peers_of_replay_give_whole_batches() -> None:
    columns = replay.transitions(0, 3000)
    for sample in (replay.numpy_indexing(columns, 64), replay.numpy_mixture(columns, columns, 64)):
        batch = sample()
        assert {name: array.shape[0] for name, array in batch.items()} == dict.fromkeys(columns, 64)
    steps = {name: array for name, array in columns.items() if name != "next_observation"}
    windows = replay.numpy_windows(steps, 8, 20)()
    assert windows["observation"].shape == (8, 20, 17) and windows["reward"].shape == (8, 20)


def test_limits_of_the_core_do_not_depend_on_the_instruction_set() -> None:
    table, words = np.arange(1000, dtype=np.uint32), set()
    before, sums = _core.simd_level(), set()
    try:
        for level in _core.available_simd_levels():
            _core.set_simd_level(level)
            words.add(_core.philox_checksum(7, 37, 5))
            sums.add(_core.lookup_checksum(np.full(1000, 3, np.uint32), 64) % 3)
    finally:
        _core.set_simd_level(before)
    expected = 0
    for sequence in range(37):
        for block in range(5):
            for word in _core.philox4x32([block, sequence, 0, 0], 7):
                expected ^= word
    assert words == {expected} and sums == {0}
    assert _core.lookup_checksum(table, 10**6) > 0
    with pytest.raises(ValueError, match="a word at least"):
        _core.lookup_checksum(np.zeros(0, np.uint32), 1)


def test_limits_of_memory_and_disk_move_the_bytes_that_they_count(tmp_path: Path) -> None:
    out = np.zeros((3, 1000), np.uint8)
    with ExitStack() as stack:
        work, amount = limits.memory_writes(stack, out, 2)
        work()
        assert amount == 3000 and (out == 7).all()
        words, count = limits.philox(stack, 2)
        words()
    assert count == 2 * 4 * limits.SEQUENCES * limits.BLOCKS
    path = tmp_path / "file"
    for mebibytes in (1, 17, 1):
        write, amount = limits.disk_writes(path, mebibytes)
        write()
        assert path.stat().st_size == amount == mebibytes * 2**20
    read, amount = limits.disk_reads(path)
    read()
    assert amount == 2**20
