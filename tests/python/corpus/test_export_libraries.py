"""The libraries that the exports are for read them back, all values compared.

They cannot be installed beside each other, so each test makes an environment of its own with pip; torch is taken from
the environment that runs the tests.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from export_corpora import token_corpus, trajectory_corpus
from own_environment import OwnEnvironment

from trajmill.corpus.export import MDS, Arrow, Datatrove, Megatron, Parquet, export_corpus

pytestmark = pytest.mark.slow


@pytest.fixture
def environment(tmp_path) -> OwnEnvironment:
    """A fresh virtual environment that sees the torch of this one."""
    torch = pytest.importorskip("torch")
    return OwnEnvironment.create(tmp_path / "environment", sees=Path(torch.__file__).parents[1])


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert (found == expected).all()


def test_megatron_core(environment, tmp_path):
    environment.install("--no-deps", "megatron-core==0.16.1")
    script = """
from megatron.core.datasets.indexed_dataset import IndexedDataset
sets = [IndexedDataset(prefix, mmap=True) for prefix in sys.argv[1:]]
save(np.stack([s[i] for s in sets for i in range(len(s))]), np.concatenate([s.document_indices for s in sets]))
"""
    for dtype, largest in (("uint8", 255), ("uint16", 65_535), ("uint32", 2**31 - 1)):
        corpus = token_corpus(tmp_path / dtype, dtype, largest=largest)
        export_corpus(Megatron(), corpus, tmp_path / f"{dtype}-shards")
        prefixes = sorted(path.with_suffix("") for path in (tmp_path / f"{dtype}-shards").glob("*.idx"))
        tokens, documents = environment.read(script, *prefixes)
        assert_same(tokens, corpus.arrays["tokens"])
        assert documents.tolist() == [*range(9), *range(9), *range(6)]
        export_corpus(Megatron(single_file=True), corpus, tmp_path / f"{dtype}-single")
        assert_same(environment.read(script, tmp_path / f"{dtype}-single/tokens")[0], corpus.arrays["tokens"])


def test_datatrove(environment, tmp_path):
    environment.install("datatrove==0.10.1", "numpy>=2")
    script = """
from datatrove.utils.dataset import DatatroveFolderDataset
rows = DatatroveFolderDataset(sys.argv[1], seq_len=12, filename_pattern="*.ds", token_size=int(sys.argv[2]),
                              return_positions=True)
save(np.stack([rows[i]["input_ids"] for i in range(len(rows))]),
     np.stack([rows[i]["positions"] for i in range(len(rows))]))
"""
    for dtype, size in (("uint8", 2), ("uint16", 2), ("uint32", 4)):
        corpus = token_corpus(tmp_path / dtype, dtype)
        export_corpus(Datatrove(), corpus, tmp_path / f"{dtype}-out")
        tokens, positions = environment.read(script, tmp_path / f"{dtype}-out", size)
        assert_same(tokens, corpus.arrays["tokens"])
        assert_same(positions, np.tile(np.arange(13), (21, 1)))  # a document is a row


def test_hugging_face_datasets(environment, tmp_path):
    environment.install("datasets==5.2.0", "pyarrow>=20")
    columns = """
save(*(np.asarray(d.data[name].combine_chunks().flatten()).reshape(len(d), -1) for name in sys.argv[2:]))
"""
    from_disk = f"""
import datasets
d = datasets.load_from_disk(sys.argv[1], keep_in_memory=False)
assert d.cache_files, "not mapped"
assert all(str(d.features[name].feature.dtype).startswith("uint") for name in d.features), d.features
assert d[3][sys.argv[2]] == d.with_format("arrow")[3][sys.argv[2]].to_pylist()[0]
{columns}"""
    from_files = f"""
import datasets, pathlib
files = sorted(map(str, pathlib.Path(sys.argv[1]).glob("*.arrow")))
d = datasets.concatenate_datasets([datasets.Dataset.from_file(f) for f in files])
{columns}"""
    from_parquet = f"""
import datasets
d = datasets.load_dataset("parquet", data_dir=sys.argv[1], split="train")
{columns}"""
    for make in (token_corpus, trajectory_corpus):
        corpus = make(tmp_path / make.__name__)
        export_corpus(Arrow(), corpus, tmp_path / f"{make.__name__}-arrow")
        export_corpus(Parquet(), corpus, tmp_path / f"{make.__name__}-parquet")
        for script, out in ((from_disk, "arrow"), (from_files, "arrow"), (from_parquet, "parquet")):
            found = environment.read(script, tmp_path / f"{make.__name__}-{out}", *corpus.arrays)
            for array, expected in zip(found, corpus.arrays.values(), strict=True):
                assert array.dtype == expected.dtype
                assert_same(array, expected)


def test_mosaicml_streaming(environment, tmp_path):
    # the cloud clients, vision and text parts are never reached, so what they need is not installed
    environment.install("--no-deps", "mosaicml-streaming==0.13.0")
    environment.install("numpy<2.2", "xxhash<4", "brotli", "python-snappy", "zstd", "catalogue", "pillow", "tqdm")
    script = """
from unittest.mock import MagicMock
for name in ("streaming.vision", "streaming.text", "streaming.multimodal", "transformers",
             "transformers.feature_extraction_utils", "transformers.tokenization_utils_base"):
    sys.modules[name] = MagicMock()
from streaming import LocalDataset, StreamingDataset
local = LocalDataset(sys.argv[1])
streamed = StreamingDataset(local=sys.argv[1], validate_hash="xxh3_64", shuffle=False, batch_size=1)
assert len(local) == len(streamed)
for name in sys.argv[2:]:
    assert all(np.array_equal(streamed[i][name], local[i][name]) for i in range(len(local)))
save(*(np.stack([local[i][name] for i in range(len(local))]) for name in sys.argv[2:]))
"""
    for make in (token_corpus, trajectory_corpus):
        corpus = make(tmp_path / make.__name__)
        export_corpus(MDS(size_limit=500), corpus, tmp_path / f"{make.__name__}-out")
        found = environment.read(script, tmp_path / f"{make.__name__}-out", *corpus.arrays)
        for array, expected in zip(found, corpus.arrays.values(), strict=True):
            assert array.dtype == expected.dtype
            assert_same(array, expected)
