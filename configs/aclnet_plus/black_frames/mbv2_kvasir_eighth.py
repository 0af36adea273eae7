# Half of the unlabelled frames are black, in both views.
_base_ = '../mbv2_kvasir_eighth.py'
train_dataloader = dict(
    dataset=dict(
        unlabelled=dict(
            pipeline=[
                _base_.unsup_pipeline[0],
                dict(type='BlackFrames', share=0.5),
                *_base_.unsup_pipeline[1:],
            ]
        )
    )
)
