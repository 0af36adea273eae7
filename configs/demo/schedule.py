# Short enough for a demonstration on two CPU cores. Adam, because SGD hardly moves a network that
# starts from random weights in so few steps.
_base_ = '../_base_/schedules/1200i.py'
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.002, weight_decay=0.01))
train_cfg = dict(max_iters=240)
default_hooks = dict(logger=dict(interval=20))
