"""Half real, half synthetic transitions in every batch of a loop of your own: here, a model of the reward."""

import torch

import trajmill as tm

dataset = tm.load_dataset("hopper-sac-replay-10k")
real = tm.ReplayBuffer.from_dataset(dataset, seed=0)

made = tm.ReplayBuffer.from_dataset(dataset, seed=1)  # stands for what a model of the data has made
mixed = tm.MixedReplay({"real": (real, 0.5), "synthetic": (made, 0.5)})

network = torch.nn.Sequential(torch.nn.Linear(14, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
optimizer = torch.optim.Adam(network.parameters(), 3e-3)
for step, batch in enumerate(mixed.batches(256, count=201, device="cpu")):
    inputs = torch.cat([batch["observation"], batch["action"]], 1)
    loss = (network(inputs).squeeze(1) - batch["reward"]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        shares = torch.bincount(batch["source"].long()).tolist()
        print(f"step {step}: loss {loss.item():.3f}, rows of each source {shares}")
