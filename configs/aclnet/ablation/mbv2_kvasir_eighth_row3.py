# Table 1, row III: AC + low-level and high-level refinement (LA, HA).
_base_ = '../mbv2_kvasir_eighth.py'
model = dict(use_aggregation=False)
