# CorrMatch: thresholds, weights and regions of its public code, maps of the encoder's last feature, the loss of
# UniMatch's medical variant, and a warm-up of 5 of 80 epochs.
method = dict(
    type='CorrMatch',
    warmup_iters=845 / 13500,
    threshold=0.85,
    threshold_momentum=0.999,
    most=0.95,
    consistency_weight=1.0,
    criterion='dice',
    dropout=0.5,
    regions=128,
    feature_source=3,  # of the encoder: 2048 channels of R50, 768 of Swin-T, 320 of MobileNetV2
)
