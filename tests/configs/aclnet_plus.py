_base_ = 'aclnet.py'
model = dict(affinity_weight=2.0, refinement=dict(weighted=True))
