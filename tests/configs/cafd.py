_base_ = ['tiny_model.py', 'tiny_run.py']
segmentor = _base_.model
model = dict(
    _delete_=True,
    type='CAFD',
    segmentor=segmentor,
    warmup_iters=2,
    focused=dict(channels=4),
    dispersive=dict(channels=4, dilations=(1, 2)),
    discriminator=dict(channels=(4, 8, 8, 8)),
    rampup_iters=4,
    labels_after=4,
)
optim_wrapper = dict(
    constructor='SeparateOptimWrapperConstructor',
    separate=dict(discriminator=dict(optimizer=dict(type='Adam', lr=1e-3, betas=(0.9, 0.99)))),
)
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')
