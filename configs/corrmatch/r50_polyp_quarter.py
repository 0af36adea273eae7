_base_ = [
    '../_base_/networks/r50.py',
    '../_base_/methods/corrmatch_384.py',
    '../_base_/datasets/polyp.py',
    '../_base_/schedules/80e.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
