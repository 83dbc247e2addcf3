"""Laws to pre-train on, and what the best predictor loses on them: the line under every loss curve."""

import trajmill as tm

laws = [
    tm.Dyck(pairs=8, max_depth=4),
    tm.ChainPopulation(state_count=10, rows="dirichlet", alpha=1.0),  # a fresh chain for every sequence
    tm.SequenceTask(task="sort", alphabet=20, input_length=(4, 16), pack=True),
    tm.HiddenMarkovModel.mess3(),
]
for law in laws:
    rows = law.sample(200, 256, columns=["loss_mask"])
    losses = law.losses(rows["tokens"])
    print(f"{law.kind():20} {losses.mean():.3f} nats a token, {losses[rows['loss_mask'] == 1].mean():.3f} a target")

mixture = tm.Mixture(laws=tuple(laws), weights=(4, 4, 1, 1), separate=True)
print("a mixture of", mixture.vocabulary_size, "tokens; laws of ten rows:", end=" ")
print(mixture.sample(10, 256, columns=["task"])["task"][:, 0])
