# UniMatch V2 on the laptop track. The teacher's decay suits the short run; the warm-up is as long as that of the
# others.
_base_ = './unimatch_v2_384.py'
method = dict(teacher_momentum=0.99, warmup_iters=150 / 1200)
