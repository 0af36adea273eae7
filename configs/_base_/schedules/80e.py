# The paper's schedule: 80 epochs over the 675 unlabelled images of Kvasir-SEG at 1/4, four a step. The polynomial
# decay ends with train_cfg.max_iters, whatever that is set to.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
    # The encoder, which starts from ImageNet, has a tenth of the rate of whatever starts anew.
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
)
param_scheduler = [dict(type='PolyLR', eta_min=0, power=0.9, begin=0, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=13500)
val_cfg = dict(type='StudentTeacherValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='ProgressLoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, max_keep_ckpts=2, save_best='auto'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    report=dict(type='ReportHook'),
)
