# Eight iterations on synthetic frames, a checkpoint every two.
_base_ = [
    '../../configs/_base_/datasets/synthetic.py',
    '../../configs/_base_/schedules/1200i.py',
    '../../configs/_base_/default_runtime.py',
]
train_cfg = dict(max_iters=8, val_interval=8)
default_hooks = dict(checkpoint=dict(interval=4, max_keep_ckpts=-1), logger=dict(interval=1), report=dict(frames=0))
