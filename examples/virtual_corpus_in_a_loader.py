"""10^12 sequences that are never stored, in an order that is shuffled and can be resumed."""

import torch
from torch.utils.data import DataLoader

import trajmill as tm

chain = tm.MarkovChain(state_count=100, order=1)
corpus = tm.VirtualCorpus(chain, sequence_count=10**12, length=256)
sampler = tm.CorpusSampler(len(corpus), batch_size=64, seed=0)  # shuffled: a keyed bijection, no list of numbers

loader = DataLoader(corpus, batch_sampler=sampler, collate_fn=torch.from_numpy)
for number, tokens in enumerate(loader):
    print(tokens.shape, tokens.dtype, tokens[0, :8].tolist())
    if number == 2:
        break
