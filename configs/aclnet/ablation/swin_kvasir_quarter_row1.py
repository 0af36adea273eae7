# Table 1, row I: thresholded labels of the teacher (TR).
_base_ = '../swin_kvasir_quarter.py'
model = dict(use_contrast=False, use_aggregation=False, refinement=dict(low=False, high=False))
