"""What the project does with its parts, one function each: train, evaluate, collect, generate, demo."""
