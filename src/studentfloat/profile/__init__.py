"""Which distributions a model's weights and activations follow, and the format that follows.

:func:`profile_model` sketches every tensor in one pass and fits Student's t, the normal, Laplace,
generalized normal and logistic distributions to it; :func:`merge_profiles` adds up the parts that
several machines made; :func:`derive_formats` turns a profile into a codebook.
"""

from studentfloat.profile.derive import DeriveOptions, derive_formats
from studentfloat.profile.files import read_profile
from studentfloat.profile.merge import merge_profiles
from studentfloat.profile.model import profile_model
from studentfloat.profile.settings import ActivationSettings, ProfileSettings
from studentfloat.profile.several import profile_models

__all__ = [
    "ActivationSettings",
    "DeriveOptions",
    "ProfileSettings",
    "derive_formats",
    "merge_profiles",
    "profile_model",
    "profile_models",
    "read_profile",
]
