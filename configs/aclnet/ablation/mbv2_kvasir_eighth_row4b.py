# Table 1, row IV-b: AC + AG + HA.
_base_ = '../mbv2_kvasir_eighth.py'
model = dict(refinement=dict(low=False))
