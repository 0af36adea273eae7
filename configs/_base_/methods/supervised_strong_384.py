# The supervised baseline at a semi-supervised method's cost, at 384 x 384.
method = dict(type='SupervisedEMA', teacher_momentum=0.999)
