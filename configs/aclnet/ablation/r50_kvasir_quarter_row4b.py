# Table 1, row IV-b: AC + AG + HA.
_base_ = '../r50_kvasir_quarter.py'
model = dict(refinement=dict(low=False))
