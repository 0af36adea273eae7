_base_ = ['tiny_model.py', 'tiny_run.py']
segmentor = _base_.model
# Eight iterations do not teach a network to see polyps, and without any there are no negatives. A network that
# starts with opinions predicts both classes at once.
segmentor.decode_head.init_cfg = dict(type='Normal', std=1.0, override=dict(name='conv_seg'))
train_dataloader = dict(dataset=dict(unlabelled=dict(pipeline=_base_.two_crops_pipeline)))
model = dict(
    _delete_=True,
    type='CAC',
    segmentor=segmentor,
    warmup_iters=2,
    projector=dict(hidden_channels=8, out_channels=8),
    num_keys=128,
    threshold=0.5,
)
