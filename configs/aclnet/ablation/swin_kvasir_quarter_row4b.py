# Table 1, row IV-b: AC + AG + HA.
_base_ = '../swin_kvasir_quarter.py'
model = dict(refinement=dict(low=False))
