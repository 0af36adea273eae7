# The laptop track: ten to thirty minutes on one CPU core.
_base_ = './80e.py'
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True))  # one rate for all
train_cfg = dict(max_iters=1200, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300))
