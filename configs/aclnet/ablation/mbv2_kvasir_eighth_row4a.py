# Table 1, row IV-a: AC + cross-image aggregation (AG) + LA.
_base_ = '../mbv2_kvasir_eighth.py'
model = dict(refinement=dict(high=False))
