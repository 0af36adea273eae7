_base_ = 'aclnet.py'
model = dict(affinity_weight=2.0, use_aggregation=False, refinement=dict(weighted=True))
