# ACL-Net+: ACL-Net with what this project found. Nothing of it is in the paper, and nothing has been trained to its
# end at this size.
_base_ = './aclnet_384.py'
method = dict(
    affinity_weight=2.0,
    use_aggregation=False,
    refinement=dict(gated=True, weighted=True),
)
