# The supervised baseline at a semi-supervised method's cost, on the laptop track.
method = dict(type='SupervisedEMA', teacher_momentum=0.99)
