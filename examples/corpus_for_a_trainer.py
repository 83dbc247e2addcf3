"""A corpus on disk, whose bytes its spec fixes, exported for nanoGPT."""

import trajmill as tm
from trajmill.corpus.export import FORMATS, export_corpus
from trajmill.experiments.generate import generate_law

law = tm.Dyck.hu2025()
generate_law(law, "brackets", sequence_count=2_000, length=512)  # again the same call: what is there is kept

corpus = tm.open_corpus("brackets")
print(corpus.shape, corpus.dtype, corpus[17][:12])

result = export_corpus(FORMATS["nanogpt"](), corpus, "brackets-nanogpt", overwrite=True)
print(f"{result.file_count} files, {result.byte_count:,} bytes: train.bin, val.bin, meta.pkl")
