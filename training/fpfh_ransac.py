"""The registration of the paper: FPFH features and RANSAC by open3d, then ICP on the cropped face.

The published baseline that the library's own alignment is measured against (``training.benchmark --registration
fpfh-ransac``). Needs the extra ``published-baseline``, and on Linux the system libraries that open3d loads: libusb-1.0,
libGL and libgomp. It knows neither units nor sizes of faces and refuses nothing, as published.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.align import UNITS, Alignment
from PALNetLandmarksLib.errors import NotAFaceError
from PALNetLandmarksLib.inside_box import inside_box
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.principal_frame import PrincipalFrame
from PALNetLandmarksLib.reference import ReferenceFace
from PALNetLandmarksLib.sample_surface import sample_surface

#: About this many points of the scan's surface go into the coarse registration (paper, section on alignment).
SAMPLES = 10_000

#: Cells in which points are averaged, mm; the other lengths are the multiples of it that open3d's tutorial takes.
CELL_MM = 5.0
NORMAL_RADIUS, FEATURE_RADIUS, MATCH_DISTANCE = 2.0, 5.0, 1.5

RANSAC_TRIALS = 100_000
RANSAC_CONFIDENCE = 0.999

#: Points further than this from their partner do not count in the final ICP, mm.
ICP_REACH_MM = 5.0


def align_fpfh_ransac(mesh: TriangleMesh, reference: ReferenceFace, unit: str = "mm", seed: int = 0) -> Alignment:
    """T = T_ICP · T_coarse from ``mesh`` to the reference face.

    Parameters
    ----------
    mesh : the scan as read, in any pose.
    reference : canonical LPS mm.
    unit : length unit of the scan; it cannot be found this way.
    seed : of RANSAC.

    Returns
    -------
    Alignment with ``face_scale`` 1, and ICP's share of inliers as fitness and coverage.

    Raises
    ------
    ImportError
        If open3d cannot be loaded; the message says what to install.
    NotAFaceError
        If the scan has no surface.
    """
    open3d = load_open3d()
    open3d.utility.random.seed(seed)
    frame = PrincipalFrame.of(mesh)
    samples = sample_surface(mesh.with_points(frame.place(mesh.points)), SAMPLES)
    if not len(samples.points):
        raise NotAFaceError(f"'{mesh.name}' has no surface area; export the scan as a triangle mesh.")
    points = frame.back(samples.points) * UNITS[unit]
    scan = _cloud(open3d, points, samples.normals @ frame.axes)
    target = _cloud(open3d, reference.points, reference.normals)
    coarse = _ransac(open3d, scan, target)
    placed = points @ coarse[:3, :3].T + coarse[:3, 3]
    inside = inside_box(placed, *reference.region_of_interest)
    fine, fitness, residual = _icp(open3d, placed[inside], target)
    return Alignment(
        transform=fine @ coarse,
        unit=unit,
        mm_per_unit=UNITS[unit],
        unit_source="given",
        face_scale=1.0,
        fitness=fitness,
        residual_mm=residual,
        coverage=fitness,
        inside_out=False,
        warnings=(),
    )


def load_open3d() -> Any:
    """The module open3d.

    Raises
    ------
    ImportError
        With the remedy, if the package or a system library that it needs is missing.
    """
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise ImportError(
            f"open3d cannot be loaded ({error}); install it by: pip install 'palnet-landmarks[published-baseline]', "
            "and on Debian or Ubuntu: apt-get install libusb-1.0-0 libgl1 libgomp1"
        ) from error
    return open3d


def _cloud(open3d: Any, points: NDArray[np.float64], normals: NDArray[np.float64]) -> Any:
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    cloud.normals = open3d.utility.Vector3dVector(normals)
    return cloud


def _ransac(open3d: Any, scan: Any, target: Any) -> NDArray[np.float64]:
    """Coarse rigid transform (4, 4) by matching FPFH features."""
    registration = open3d.pipelines.registration
    (scan, scan_features), (target, target_features) = (_features(open3d, cloud) for cloud in (scan, target))
    reach = MATCH_DISTANCE * CELL_MM
    result = registration.registration_ransac_based_on_feature_matching(
        scan,
        target,
        scan_features,
        target_features,
        True,
        reach,
        registration.TransformationEstimationPointToPoint(False),
        3,
        [
            registration.CorrespondenceCheckerBasedOnEdgeLength(0.9),
            registration.CorrespondenceCheckerBasedOnDistance(reach),
        ],
        registration.RANSACConvergenceCriteria(RANSAC_TRIALS, RANSAC_CONFIDENCE),
    )
    return np.array(result.transformation)


def _features(open3d: Any, cloud: Any) -> tuple[Any, Any]:
    thinned = cloud.voxel_down_sample(CELL_MM)
    search = open3d.geometry.KDTreeSearchParamHybrid
    signs = np.asarray(thinned.normals).copy()
    thinned.estimate_normals(search(radius=NORMAL_RADIUS * CELL_MM, max_nn=30))
    # The triangles say which side is out; planes through the neighbours are less noisy than triangles.
    estimated = np.asarray(thinned.normals)
    flip = np.where(np.einsum("ij,ij->i", estimated, signs) < 0, -1.0, 1.0)
    thinned.normals = open3d.utility.Vector3dVector(estimated * flip[:, None])
    features = open3d.pipelines.registration.compute_fpfh_feature(
        thinned, search(radius=FEATURE_RADIUS * CELL_MM, max_nn=100)
    )
    return thinned, features


def _icp(open3d: Any, points: NDArray[np.float64], target: Any) -> tuple[NDArray[np.float64], float, float]:
    """Fine rigid transform (4, 4) of the cropped points, share of inliers, and their root mean square distance."""
    if not len(points):
        return np.eye(4), 0.0, float("nan")
    registration = open3d.pipelines.registration
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    result = registration.registration_icp(
        cloud, target, ICP_REACH_MM, np.eye(4), registration.TransformationEstimationPointToPlane()
    )
    return np.array(result.transformation), float(result.fitness), float(result.inlier_rmse)
