# ACL-Net on the laptop track, 128 x 128 and 1200 iterations: the paper's settings, those of length and size scaled.
_base_ = './aclnet_384.py'
method = dict(
    teacher_momentum=0.99,  # 0.999 would average the whole run
    warmup_iters=150 / 1200,  # an eighth of the run, as 10 of 80 epochs are
    # Distances scaled to the image: 8 of 128 pixels reach as far as the paper's 24 of 384.
    refinement=dict(local=dict(dilations=(1, 2, 3, 4, 6, 8))),
)
