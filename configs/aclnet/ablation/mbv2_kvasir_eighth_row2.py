# Table 1, row II: TR + affinity contrast (AC).
_base_ = '../mbv2_kvasir_eighth.py'
model = dict(use_aggregation=False, refinement=dict(low=False, high=False))
