# Table 1, row II: TR + affinity contrast (AC).
_base_ = '../swin_kvasir_quarter.py'
model = dict(use_aggregation=False, refinement=dict(low=False, high=False))
