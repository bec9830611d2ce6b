"""Registration from a good start on small copies: elastix (default) and itk's own framework (cross-check).

Both take a fixed and a moving volume that already lie on each other roughly, and return the remaining map from fixed
world to moving world. They work on copies of about 2 mm: the error of a rigid map is far below a voxel.
"""

from __future__ import annotations

import itk
import numpy as np

from .volumes import Volume

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
ELASTIX_METRICS = {"mi": "AdvancedMattesMutualInformation", "ncc": "AdvancedNormalizedCorrelation"}
ELASTIX_SAMPLES = 4000  # a new random draw at each iteration
ELASTIX_ITERATIONS = {"rigid": 200, "affine": 300}
ITK_SAMPLING = 0.1  # share of the fixed voxels
ITK_ITERATIONS = 200


def to_itk(volume: Volume, values: np.ndarray | None = None) -> itk.Image:
    """An itk image of a volume, or of other values on its grid (itk's world is LPS, its arrays are z first)."""
    values = volume.values if values is None else values
    image = itk.image_from_array(np.ascontiguousarray(values.transpose(2, 1, 0)))
    image.SetSpacing(volume.spacing.tolist())
    image.SetOrigin((RAS_TO_LPS @ volume.affine[:3, 3]).tolist())
    image.SetDirection(itk.matrix_from_array(RAS_TO_LPS @ volume.affine[:3, :3] / volume.spacing))
    return image


def _mask_to_itk(fixed: Volume) -> itk.Image:
    mask = np.ones(fixed.values.shape, bool) if fixed.mask is None else fixed.mask
    return to_itk(fixed, mask.astype(np.uint8))


def _ras_map(linear: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """4x4 RAS map of an LPS map `linear @ x + offset`."""
    out = np.eye(4)
    out[:3, :3] = RAS_TO_LPS @ linear @ RAS_TO_LPS
    out[:3, 3] = RAS_TO_LPS @ offset
    return out


def _lps_centre(fixed: Volume) -> np.ndarray:
    return RAS_TO_LPS @ fixed.points()[0].mean(1)


def align_elastix(fixed: Volume, moving: Volume, kind: str, metric: str, bins: int, seed: int) -> np.ndarray:
    """Align with elastix (adaptive stochastic gradient descent, random samples inside the fixed mask).

    Args:
        fixed: with its mask.
        moving: roughly in place.
        kind: "rigid" or "affine".
        metric: "mi" (Mattes) or "ncc" (normalized correlation).
        bins: histogram bins of "mi".
        seed: of the random samples.

    Returns:
        Fixed world to moving world, 4x4 (RAS mm).

    Raises:
        RuntimeError: if elastix gives up, e.g. because too few samples lie inside the moving image.
    """
    generator = itk.MersenneTwisterRandomVariateGenerator  # elastix draws from itk's, which other filters advance
    generator.GetInstance().SetSeed(seed)
    generator.ResetNextSeed()
    parameters = itk.ParameterObject.New()
    settings = parameters.GetDefaultParameterMap(kind, 1)
    settings.update(
        {
            "Metric": [ELASTIX_METRICS[metric]],
            "NumberOfHistogramBins": [str(bins)],
            "MaximumNumberOfIterations": [str(ELASTIX_ITERATIONS[kind])],
            "ImageSampler": ["RandomCoordinate"],
            "NumberOfSpatialSamples": [str(ELASTIX_SAMPLES)],
            "RandomSeed": [str(seed)],
            "FixedImagePyramidSchedule": ["1", "1", "1"],
            "MovingImagePyramidSchedule": ["1", "1", "1"],
            "AutomaticTransformInitialization": ["false"],
            "CenterOfRotationPoint": [repr(float(c)) for c in _lps_centre(fixed)],
            "RequiredRatioOfValidSamples": ["0.05"],  # a slab covers a small share of the brain
            "ErodeMask": ["false"],
            "WriteResultImage": ["false"],
        }
    )
    parameters.AddParameterMap(settings)
    _, result = itk.elastix_registration_method(
        to_itk(fixed),
        to_itk(moving),
        parameter_object=parameters,
        fixed_mask=_mask_to_itk(fixed),
        log_to_console=False,
        number_of_threads=1,
    )
    found = result.GetParameterMap(0)
    values = np.array([float(v) for v in found["TransformParameters"]])
    centre = np.array([float(v) for v in found["CenterOfRotationPoint"]])
    if kind == "affine":
        linear, shift = values[:9].reshape(3, 3), values[9:]
    else:
        linear, shift = _euler_matrix(values[:3], found.get("ComputeZYX", ("false",))[0] == "true"), values[3:]
    return _ras_map(linear, centre + shift - linear @ centre)


def _euler_matrix(angles: np.ndarray, zyx: bool) -> np.ndarray:
    """Rotation matrix of itk's Euler3DTransform, which elastix uses (radians about x, y, z)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return z @ y @ x if zyx else z @ x @ y


def align_itk(fixed: Volume, moving: Volume, kind: str, metric: str, bins: int, seed: int) -> np.ndarray:
    """Align with itk's registration framework (v4): versor or affine transform, regular step gradient descent.

    Arguments, result and error as `align_elastix`.
    """
    pixel = itk.Image[itk.F, 3]
    transform = {"rigid": itk.VersorRigid3DTransform, "affine": itk.AffineTransform}[kind]
    transform = (transform[itk.D, 3] if kind == "affine" else transform[itk.D]).New()
    transform.SetCenter(_lps_centre(fixed).tolist())
    if metric == "mi":
        measure = itk.MattesMutualInformationImageToImageMetricv4[pixel, pixel].New()
        measure.SetNumberOfHistogramBins(bins)
    else:
        measure = itk.CorrelationImageToImageMetricv4[pixel, pixel].New()
    measure.SetMaximumNumberOfWorkUnits(1)  # the sum's order, and so the result, would depend on it
    mask = itk.ImageMaskSpatialObject[3].New()
    mask.SetImage(_mask_to_itk(fixed))
    mask.Update()
    measure.SetFixedImageMask(mask)
    scales = itk.RegistrationParameterScalesFromPhysicalShift[type(measure)].New()
    scales.SetMetric(measure)
    optimizer = itk.RegularStepGradientDescentOptimizerv4[itk.D].New()
    optimizer.SetScalesEstimator(scales)
    optimizer.SetLearningRate(1.0)
    optimizer.SetMinimumStepLength(0.005)
    optimizer.SetRelaxationFactor(0.6)
    optimizer.SetNumberOfIterations(ITK_ITERATIONS)
    method = itk.ImageRegistrationMethodv4[pixel, pixel].New()
    method.SetFixedImage(to_itk(fixed))
    method.SetMovingImage(to_itk(moving))
    method.SetInitialTransform(transform)
    method.InPlaceOn()
    method.SetMetric(measure)
    method.SetOptimizer(optimizer)
    method.SetNumberOfLevels(1)
    method.SetShrinkFactorsPerLevel([1])
    method.SetSmoothingSigmasPerLevel([0])
    method.MetricSamplingReinitializeSeed(seed)
    method.SetMetricSamplingStrategy(itk.ImageRegistrationMethodv4Enums.MetricSamplingStrategy_RANDOM)
    method.SetMetricSamplingPercentage(ITK_SAMPLING)
    method.Update()
    return _ras_map(itk.array_from_matrix(transform.GetMatrix()), np.array(transform.GetOffset()))


BACKENDS = {"elastix": align_elastix, "itk": align_itk}
