# ACL-Net+ on the laptop track: ACL-Net with what this project found. The values were chosen on kvasir/dev
# (results/laptop/settings.md).
_base_ = './aclnet_128.py'
method = dict(
    affinity_weight=2.0,
    use_aggregation=False,
    refinement=dict(gated=True, weighted=True, num_iters=20),
    refine_after=100 / 1200,
    cutmix=dict(prob=0.0),
    consistency_weight=1.0,
    contrast_weight=0.05,
)
