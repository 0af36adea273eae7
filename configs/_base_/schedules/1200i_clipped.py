# As 1200i.py, with gradients clipped as in 80e_clipped.py.
_base_ = './1200i.py'
optim_wrapper = dict(clip_grad=dict(max_norm=20))
