"""Registration to a template or an atlas scan, as a changed affine and one resampling."""

from .localise import LocaliseEarsd, box_in_scan
from .quality import Limits
from .register import Registration, register
from .template import TEMPLATE_SHAPE, TEMPLATE_SPACING, load_template, template_affine
from .transform import Registerd, ResampleToGridd

__all__ = [
    "TEMPLATE_SHAPE",
    "TEMPLATE_SPACING",
    "Limits",
    "LocaliseEarsd",
    "Registerd",
    "Registration",
    "ResampleToGridd",
    "box_in_scan",
    "load_template",
    "register",
    "template_affine",
]
