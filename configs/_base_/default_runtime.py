custom_imports = dict(imports=['mmseg_acl'], allow_failed_imports=False)
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
randomness = dict(seed=0)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
custom_hooks = [
    dict(type='StepSeedHook'),
    dict(type='MeanTeacherHook'),
    dict(type='FiniteLossHook'),
    dict(type='LabelRangeHook'),
    dict(type='ResumeHook'),
    dict(type='StopSignalHook'),
    dict(type='PseudoLabelRefinementHook'),
]
