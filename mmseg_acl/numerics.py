"""The version of the training steps, which says what runs may be compared."""

# Raise it by one in the commit after which any config, with the same seed, trains other weights than before: by a
# change to a step, a loss, a view, what is drawn or how it is optimised. Rounding alone is no reason, and a changed
# config is none, since a config counts by itself. The number is part of a run's hash, so that a grid trains anew what
# another version has trained, and of its record, so that no table mixes two versions. Version 0 is everything before
# this number was there.
# Version 1 was frozen before the first runs of results/laptop. Since version 2 an image has no Dice loss for a class
# that does not occur in it.
NUMERICS = 2
