# The laptop track: on one CPU core some ten minutes for SupOnly, an hour for CAFD.
_base_ = './80e.py'
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True))  # one rate for all
train_cfg = dict(max_iters=1200)
