# Table 1, row IV-a: AC + cross-image aggregation (AG) + LA.
_base_ = '../swin_kvasir_quarter.py'
model = dict(refinement=dict(high=False))
