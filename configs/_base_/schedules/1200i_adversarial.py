# As 1200i.py, with an optimizer of its own for a discriminator.
_base_ = './1200i.py'
optim_wrapper = dict(
    constructor='SeparateOptimWrapperConstructor',
    separate=dict(discriminator=dict(optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99)))),
)
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')
