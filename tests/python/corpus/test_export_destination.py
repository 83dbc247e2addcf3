"""Where exports go: whole or not at all, and never over what somebody else put there."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from export_corpora import token_corpus, trajectory_corpus

from trajmill.cli import main
from trajmill.core import files
from trajmill.corpus import CorpusError
from trajmill.corpus.export import D4RL, FORMATS, Megatron, NanoGPT, export_corpus
from trajmill.experiments.generate import GenerateMarkovConfig, generate


def tree(directory):
    return {str(path.relative_to(directory)): path.stat().st_size for path in directory.rglob("*") if path.is_file()}


def test_what_exists_is_refused_and_left_alone(tmp_path):
    corpus = token_corpus(tmp_path / "corpus")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(CorpusError, match="out exists; choose another name or pass --overwrite"):
        export_corpus(Megatron(), corpus, tmp_path / "out")
    (tmp_path / "out.hdf5").write_text("mine")
    with pytest.raises(CorpusError, match="exists"):
        export_corpus(D4RL(vectors="index"), trajectory_corpus(tmp_path / "mdp"), tmp_path / "out.hdf5")
    assert (tmp_path / "out.hdf5").read_text() == "mine"


def test_overwriting_replaces_an_earlier_export(tmp_path):
    corpus = token_corpus(tmp_path / "corpus", "uint16")
    export_corpus(Megatron(), corpus, tmp_path / "out")
    export_corpus(NanoGPT(), corpus, tmp_path / "out", overwrite=True)
    names = {"train.bin", "val.bin", "meta.pkl", ".trajmill-export.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    record = json.loads((tmp_path / "out/.trajmill-export.json").read_text())
    assert record["format"] == "nanogpt" and set(record["files"]) == names - {".trajmill-export.json"}
    assert record["spec"] == corpus.spec
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "out"]
    mdp = trajectory_corpus(tmp_path / "mdp")
    for _ in range(2):
        export_corpus(D4RL(vectors="index"), mdp, tmp_path / "out.hdf5", overwrite=True)


def test_overwriting_never_takes_foreign_files(tmp_path):
    corpus = token_corpus(tmp_path / "corpus")
    before = tree(corpus.directory)
    with pytest.raises(CorpusError, match=r"holds files that no export put there \(tokens-00000\.bin, tokens-00001"):
        export_corpus(Megatron(), corpus, corpus.directory, overwrite=True)
    assert tree(corpus.directory) == before
    export_corpus(Megatron(), corpus, tmp_path / "out")
    (tmp_path / "out/thesis.tex").write_text("mine")
    with pytest.raises(CorpusError, match=r"no export put there \(thesis\.tex\)"):
        export_corpus(Megatron(), corpus, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out/thesis.tex").read_text() == "mine"


def test_a_directory_never_replaces_a_file_nor_a_file_a_directory(tmp_path):
    corpus = token_corpus(tmp_path / "corpus")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CorpusError, match="is a file, and a directory is to be written"):
        export_corpus(Megatron(), corpus, tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"
    export_corpus(Megatron(), corpus, tmp_path / "out")
    with pytest.raises(CorpusError, match="is a directory, and a file is to be written"):
        export_corpus(D4RL(vectors="index"), trajectory_corpus(tmp_path / "mdp"), tmp_path / "out", overwrite=True)
    assert len(list((tmp_path / "out").iterdir())) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "file", "mdp", "out"]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from export_corpora import token_corpus
from trajmill.corpus.export import Megatron, export_corpus
corpus = token_corpus(Path(sys.argv[2]) / "corpus")
export_corpus(Megatron(), corpus, Path(sys.argv[2]) / "out", progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_killed_export_has_no_name_and_what_it_left_is_named(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    (left,) = files.leftovers(tmp_path, "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [left.name, "corpus"]
    corpus = token_corpus(tmp_path / "another")
    with pytest.raises(CorpusError, match=rf"{left} is left of an export that was killed.*--overwrite"):
        export_corpus(Megatron(), corpus, tmp_path / "out")
    export_corpus(Megatron(), corpus, tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "corpus", "out"]


def test_a_destination_below_a_file_is_one_clear_error(tmp_path):
    corpus = token_corpus(tmp_path / "corpus")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CorpusError, match=r"cannot export to .*file/out: \[Errno \d+\] "):
        export_corpus(Megatron(), corpus, tmp_path / "file/out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_destination_that_may_not_be_written_is_one_clear_error(tmp_path):
    corpus = token_corpus(tmp_path / "corpus")
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(CorpusError, match=r"cannot export to .*locked/out: \[Errno 13\] Permission denied"):
        export_corpus(Megatron(), corpus, tmp_path / "locked/out")


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_leaves_nothing(tmp_path, name):
    """A limit on the size of files stands for the full disk: the write fails in the middle."""
    if name in ("arrow", "parquet", "mds"):
        pytest.importorskip("pyarrow" if name != "mds" else "xxhash")
    is_file = name == "d4rl"
    corpus = (trajectory_corpus if is_file else token_corpus)(tmp_path / "corpus", bounds=(0, 2000, 4000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(CorpusError, match=r"cannot export to .*out: .*"):
            export_corpus(FORMATS[name](**({"vectors": "index"} if is_file else {})), corpus, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]


def test_nothing_has_the_name_before_everything_is_written(tmp_path):
    corpus = token_corpus(tmp_path / "corpus", "uint16")
    seen = []

    def look(*_):
        seen.append({path.name for path in tmp_path.iterdir()})

    export_corpus(Megatron(copy=True), corpus, tmp_path / "out", progress=look)
    assert seen == 3 * [{"corpus", *seen[0]}] and len(seen[0]) == 2 and "out" not in seen[0]


def test_directories_above_the_destination_are_made(tmp_path):
    export_corpus(Megatron(), token_corpus(tmp_path / "corpus"), tmp_path / "new/directories/out")
    assert (tmp_path / "new/directories/out").is_dir()


def test_interrupts_leave_nothing(tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_corpus(Megatron(), token_corpus(tmp_path / "corpus"), tmp_path / "out", progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]


# the command


@pytest.fixture
def corpus_directory(tmp_path):
    pytest.importorskip("xxhash")
    config = GenerateMarkovConfig(state_count=20, sequence_count=100, length=16)
    return generate(config, tmp_path / "corpus") and tmp_path / "corpus"


def test_the_command_exports(tmp_path, corpus_directory, capsys):
    words = ["corpus", "export", "megatron", str(corpus_directory), str(tmp_path / "out"), "--single-file"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["linked_bytes"] == 1600 and told["files"] == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"tokens.bin", "tokens.idx", ".trajmill-export.json"}
    assert main([*words, "--quiet"]) == 1
    assert "exists; choose another name or pass --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--quiet"]) == 0
    assert "1,600 of them shared with the corpus" in " ".join(capsys.readouterr().out.split())


def test_the_command_refuses_options_of_other_formats(tmp_path, corpus_directory, capsys):
    words = ["corpus", "export", "mds", str(corpus_directory), str(tmp_path / "out"), "--validation-fraction", "0.5"]
    assert main(words) == 2
    assert "Unrecognized options" in capsys.readouterr().err


def test_the_command_names_a_directory_that_is_no_corpus(tmp_path, capsys):
    pytest.importorskip("xxhash")
    assert main(["corpus", "export", "mds", str(tmp_path / "nothing"), str(tmp_path / "out"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "nothing" in error and len(error.splitlines()) == 1


def test_exporting_imports_no_library_it_does_not_use():
    code = (
        "import sys, trajmill.corpus.export\n"
        "sys.exit(' '.join({'pyarrow', 'h5py', 'xxhash', 'torch'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
