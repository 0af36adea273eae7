from mmseg_acl.models.backbones.dino import DINOv2, DINOv3

__all__ = ['DINOv2', 'DINOv3']
