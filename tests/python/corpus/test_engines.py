"""Many jobs, nodes that die, object stores: the bytes are those of one undisturbed process."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from own_environment import OwnEnvironment
from small_corpus import SPECS, files, mdp_spec, token_spec

from trajmill.corpus import CorpusError
from trajmill.corpus.build import Part, build, make_shard
from trajmill.corpus.storage import open_store
from trajmill.corpus.survey import merge, survey, verify

MODULES = os.pathsep.join(str(Path(__file__).parents[up] / place) for up, place in ((0, ""), (2, "support")))
"""where another process finds this module and what it imports"""


@pytest.fixture
def whole(tmp_path):
    build(token_spec(), tmp_path / "whole")
    return files(tmp_path / "whole")


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_in_any_order_end_with_the_manifest(count, whole, tmp_path):
    out = tmp_path / "parts"
    numbers = random.Random(count).sample(range(count), count)
    built = [build(token_spec(), out, part=Part(number=number, count=count)) for number in numbers]
    assert built[-1].whole and sum(one.made for one in built) == 3
    assert files(out) == whole
    for one in built[:-1]:
        assert not one.whole or sum(b.made for b in built[: built.index(one) + 1]) == 3


def test_parts_at_the_same_time(whole, tmp_path):
    code = (
        "import sys; from small_corpus import token_spec; from trajmill.corpus.build import Part, build\n"
        "build(token_spec(), sys.argv[1], part=Part.parse(sys.argv[2]), threads=1)"
    )
    environment = os.environ | {"PYTHONPATH": MODULES}
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "parts", part], env=environment)
        for part in ("0/3", "1/3", "2/3", "1/3")  # one of them twice
    ]
    assert [job.wait(60) for job in jobs] == [0, 0, 0, 0]
    assert files(tmp_path / "parts") == whole


def test_a_part_may_begin_while_another_writes_its_first_receipt(tmp_path, monkeypatch):
    build(token_spec(), tmp_path, part=Part.parse("1/3"), threads=1)
    store = open_store(tmp_path)
    before, now = [{}], store.sizes  # as the directory was a moment ago, and as it is
    monkeypatch.setattr(type(store), "sizes", lambda self: before.pop() if before else now())
    found = survey(store)
    assert found.record is not None and found.receipts.keys() == {1}


def test_parts_made_apart_are_merged_after_copying(whole, tmp_path):
    for number in range(2):
        build(token_spec(), tmp_path / f"machine-{number}", part=Part(number=number, count=2))
    (tmp_path / "all").mkdir()
    for number in range(2):
        for name, data in files(tmp_path / f"machine-{number}").items():
            (tmp_path / "all" / name).write_bytes(data)
    merge(tmp_path / "all")
    assert files(tmp_path / "all") == whole


@pytest.mark.parametrize("words", ["", "1", "2/2", "-1/2", "1/0", "a/b", "0/2/3", "0 /2"])
def test_a_part_that_cannot_be(words):
    with pytest.raises(CorpusError, match="a part must be k/N with 0 <= k < N, such as 0/8, got"):
        Part.parse(words)


@pytest.fixture(params=["memory://corpora/deep", "file://{}/object"])
def url(request, tmp_path):
    pytest.importorskip("fsspec")
    yield request.param.format(tmp_path)
    if request.param.startswith("memory"):
        objects(request.param, remove=True)


def objects(url, *, remove=False):
    import fsspec

    store, root = fsspec.core.url_to_fs(url)
    if remove:
        return store.rm(root, recursive=True) if store.exists(root) else None
    return {path.rsplit("/", 1)[-1]: store.cat_file(path) for path in store.find(root)}


@pytest.mark.parametrize("spec", SPECS)
def test_an_object_store_holds_the_same_bytes(spec, url, tmp_path):
    build(SPECS[spec], tmp_path / "local")
    assert build(SPECS[spec], url).whole
    assert objects(url) == files(tmp_path / "local")
    assert not verify(url).problems
    assert build(SPECS[spec], url).made == 0


def test_damage_in_an_object_store_is_found_and_mended(url):
    import fsspec

    build(token_spec(), url)
    before = objects(url)
    store, root = fsspec.core.url_to_fs(url)
    store.pipe_file(f"{root}/tokens-00001.bin", before["tokens-00001.bin"][:-1] + b"\1")
    assert verify(url).problems == ("tokens-00001.bin is damaged in rows 4 to 7 of the shard",)
    store.rm(f"{root}/manifest.json")
    store.rm(f"{root}/receipt-00000.json")
    assert build(token_spec(), url, rehash=True).made == 2
    assert objects(url) == before


def test_an_object_store_that_fails_leaves_a_state_to_go_on_from(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    url = "memory://corpora/failing"
    build(mdp_spec(), tmp_path / "local")
    expected = files(tmp_path / "local")
    memory = type(fsspec.filesystem("memory"))
    put = memory.pipe_file
    for number in range(1, 11):
        calls = iter(range(1, 100))

        def failing(self, path, value, *, calls=calls, number=number, **how):
            if next(calls) == number:
                raise OSError(5, "Input/output error")
            return put(self, path, value, **how)

        monkeypatch.setattr(memory, "pipe_file", failing)
        with pytest.raises(CorpusError, match=r"Input/output error; .*give the same command again"):
            build(mdp_spec(), url)
        monkeypatch.setattr(memory, "pipe_file", put)
        assert "manifest.json" not in objects(url)
        build(mdp_spec(), url)
        assert objects(url) == expected
        objects(url, remove=True)


@pytest.fixture
def ray_cluster():
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20},
    )
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_ray_ends_with_the_same_bytes_on_one_machine(whole, tmp_path):
    pytest.importorskip("ray")
    built = build(token_spec(), tmp_path / "ray", engine="ray")
    assert built.whole and built.made == 3
    assert files(tmp_path / "ray") == whole


@pytest.mark.slow
def test_a_node_that_dies_costs_nothing_but_time(ray_cluster, tmp_path):
    spec = token_spec(row_count=8 * 60)
    build(spec, tmp_path / "whole")
    victim = ray_cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    ray_cluster.wait_for_nodes()
    killed = []

    def kill_in_the_middle(task, completed, total, unit):
        if completed > total / 4 and not killed:
            killed.append(ray_cluster.remove_node(victim, allow_graceful=False))

    build(spec, tmp_path / "ray", kill_in_the_middle, engine="ray", ray_address=ray_cluster.address)
    assert killed
    assert files(tmp_path / "ray") == files(tmp_path / "whole")


def dying_shard(spec, shard, out, threads=1):
    """Dies once for every shard: even ones half-way, odd ones after all is written."""
    marker = Path(f"{out}-died-{shard}")
    first = not marker.exists()
    marker.touch()
    if first and shard % 2 == 0:
        Path(out, f".tmp-tokens-{shard:05d}.bin-dead").write_bytes(b"half")
        os._exit(1)
    make_shard(spec, shard, out, threads)
    if first:
        os._exit(1)


@pytest.mark.slow
def test_workers_that_are_killed_are_replaced(whole, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": MODULES}}
    )
    monkeypatch.setattr("trajmill.corpus.build.make_shard", dying_shard)
    try:
        build(token_spec(), tmp_path / "ray", engine="ray")
    finally:
        ray.shutdown()
    assert files(tmp_path / "ray") == whole


def full_disk(spec, shard, out, threads=1):
    raise OSError(28, "No space left on device")


def always_dies(spec, shard, out, threads=1):
    os._exit(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shard", "message"),
    [(full_disk, "No space left on device; .*give the same command again"), (always_dies, "a Ray task died 5 times")],
)
def test_what_retries_do_not_mend_is_told_in_one_line(shard, message, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    paths = {"env_vars": {"PYTHONPATH": MODULES}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=paths)
    monkeypatch.setattr("trajmill.corpus.build.make_shard", shard)
    try:
        with pytest.raises(CorpusError, match=message) as caught:
            build(token_spec(row_count=8), tmp_path, engine="ray")
        assert "\n" not in str(caught.value)
    finally:
        ray.shutdown()


def test_ray_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CorpusError, match=r"ray.*pip install 'trajmill\[ray\]'"):
        build(token_spec(), tmp_path, engine="ray")


@pytest.mark.parametrize("url", ["nowhere://bucket/corpus", "driver://bucket/corpus"])
def test_a_store_without_a_driver_is_named(url, monkeypatch):
    registry = pytest.importorskip("fsspec.registry")
    known = {"class": "no_such_module.Files", "err": "Install no_such_module to access it"}
    monkeypatch.setitem(registry.known_implementations, "driver", known)
    with pytest.raises(CorpusError, match=f"{url} cannot be opened: (Protocol not known|Install no_such_module)"):
        build(token_spec(), url)


def test_fsspec_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(CorpusError, match=r"s3://bucket/corpus needs fsspec.*pip install 'trajmill\[remote\]'"):
        build(token_spec(), "s3://bucket/corpus")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="the tests above have run with Ray")
def test_ray_in_an_environment_of_its_own(tmp_path):
    """The slow tests above, with Ray from pip beside the packages of this environment."""
    environment = OwnEnvironment.create(tmp_path / "ray", sees=Path(sysconfig.get_path("purelib")))
    environment.install("ray>=2.60")
    words = "-m", "pytest", "-q", "-m", "slow", "-k", "ray or node or killed or retries", "-rs", __file__
    done = environment.run(*words, "-W", "default")
    assert done.returncode == 0 and "skipped" not in done.stdout.replace("1 skipped", ""), done.stdout + done.stderr
