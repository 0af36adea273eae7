# As 80e_dino.py, with gradients clipped as in 80e_clipped.py.
_base_ = './80e_dino.py'
optim_wrapper = dict(clip_grad=dict(max_norm=20))
