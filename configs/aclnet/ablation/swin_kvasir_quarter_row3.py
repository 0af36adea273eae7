# Table 1, row III: AC + low-level and high-level refinement (LA, HA).
_base_ = '../swin_kvasir_quarter.py'
model = dict(use_aggregation=False)
