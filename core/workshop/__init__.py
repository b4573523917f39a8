"""One model with all that is known of it: calibration, predictions, comparisons."""

from .._old_paths import forward

__getattr__ = forward(__name__, "workshop.workshop")
