# As 80e.py, with the optimizer of UniMatch V2 for DINOv2: the encoder has a fortieth of the rate of the head. With a
# layer_decay below 1 the rate falls from the encoder's last layer to its first; UniMatch V2 has one rate for all.
_base_ = './80e.py'
optim_wrapper = dict(
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(layer_decay=1.0, custom_keys={'backbone': dict(lr_mult=1 / 40)}),
)
