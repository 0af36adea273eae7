_base_ = ['tiny_model.py', 'tiny_run.py']
segmentor = _base_.model
# Eight iterations do not teach a network to see polyps; one that starts with opinions predicts objects at once.
segmentor.decode_head.init_cfg = dict(type='Normal', std=1.0, override=dict(name='conv_seg'))
model = dict(
    _delete_=True,
    type='AEL',
    segmentor=segmentor,
    teacher_momentum=0.9,
    warmup_iters=2,
    threshold=0.3,  # a network of eight iterations is never surer
    bank_momentum=0.5,
    min_area=0.001,
)
