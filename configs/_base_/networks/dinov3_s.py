# DPT on DINOv3-S, with the head of dinov2_s.py. Sides of images are multiples of 16. The file of weights is given out
# by its authors on request: put it into the folder that MMSEG_ACL_WEIGHTS names.
_base_ = './dinov2_s.py'
model = dict(
    backbone=dict(
        type='DINOv3',
        init_cfg=dict(checkpoint='dinov3_vits16_pretrain_lvd1689m.pth'),
    ),
)
