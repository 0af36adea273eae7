# CorrMatch on the laptop track; the warm-up is as long as that of the others.
_base_ = './corrmatch_384.py'
method = dict(warmup_iters=150 / 1200)
