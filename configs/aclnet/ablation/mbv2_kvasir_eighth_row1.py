# Table 1, row I: thresholded labels of the teacher (TR).
_base_ = '../mbv2_kvasir_eighth.py'
model = dict(use_contrast=False, use_aggregation=False, refinement=dict(low=False, high=False))
