_base_ = [
    '../_base_/networks/dinov3_s.py',
    '../_base_/methods/unimatch_v2_384.py',
    '../_base_/datasets/kvasir.py',
    '../_base_/schedules/80e_dino.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
train_dataloader = dict(dataset=dict(unlabelled=dict(pipeline=_base_.two_views_pipeline)))
