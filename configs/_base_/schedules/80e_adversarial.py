# As 80e.py, with an optimizer of its own for a discriminator, as AdvSemiSeg (Hung et al. 2018) has it; the polynomial
# decay serves both.
_base_ = './80e.py'
optim_wrapper = dict(
    constructor='SeparateOptimWrapperConstructor',
    separate=dict(discriminator=dict(optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99)))),
)
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')
