"""The paper's experiments: a grid of runs from a small file, run and resumed, and their tables."""
