# Table 1, row IV-a: AC + cross-image aggregation (AG) + LA.
_base_ = '../r50_kvasir_quarter.py'
model = dict(refinement=dict(high=False))
