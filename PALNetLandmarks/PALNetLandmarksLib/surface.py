"""Putting points on the surface: nearest vertex, centroid of nearest vertices, nearest point on the triangles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from .mesh import TriangleMesh
from .triangle_corners import corners_in_pieces

#: Ways to put the network's points onto the scan: nearest point of the triangles, nearest vertex, or the centroid of
#: the ten nearest vertices (the paper's).
SURFACES = ("triangle", "vertex", "centroid")

# A cloud up to this size is searched with a tree over all of it; of a larger one only the neighbourhood is indexed.
_CROP_ABOVE = 20_000
# Elements handled at once where a temporary array grows with the mesh: stays in cache and bounds memory.
_CHUNK = 32_768
# At most this many of the longest triangles are tested against every query.
_LONG_TRIANGLES = 500
# A triangle that faces away from where a point is looked at counts as this much (mm) farther from it.
_FACING_AWAY_MM = 1.5
# Cells along the longest side of the grid that marks neighbourhoods.
_GRID_CELLS = 128


def nearest_points(
    points: NDArray[np.floating], queries: ArrayLike, count: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the ``count`` nearest of ``points`` for each query, exactly, without indexing the whole of a large cloud.

    Parameters
    ----------
    points : (n, 3), n >= ``count``, finite.
    queries : (q, 3), finite, in the frame and unit of ``points``.
    count : how many neighbours.

    Returns
    -------
    indices : (q, count) int64 into ``points``, nearest first.
    distances : (q, count) float64, in the unit of the points.

    Raises
    ------
    ValueError
        If there are fewer than ``count`` points, or a query is not finite.
    """
    query_points = _as_points(queries)
    if not np.isfinite(query_points).all():
        raise ValueError("nearest_points needs finite query points.")
    if count < 1 or len(points) < count:
        raise ValueError(f"nearest_points was asked for {count} of {len(points)} points.")
    indices = np.zeros((len(query_points), count), dtype=np.int64)
    distances = np.zeros((len(query_points), count))
    if len(query_points) == 0:
        return indices, distances

    radius = _first_radius(points, query_points, count)
    open_queries = np.arange(len(query_points))
    while len(open_queries):
        if len(points) <= _CROP_ABOVE:
            candidates = None
        else:
            half_widths = np.full(len(open_queries), radius)
            candidates = np.flatnonzero(_in_boxes(points, query_points[open_queries], half_widths))
            if len(candidates) > len(points) // 2:
                candidates = None
        if candidates is None:
            found, distance = _tree_query(points, query_points[open_queries], count)
            done = np.ones(len(open_queries), dtype=bool)
        elif len(candidates) < count:
            radius *= 2
            continue
        else:
            local, distance = _tree_query(points[candidates], query_points[open_queries], count)
            found = candidates[local]
            # Every point within the radius is a candidate, so neighbours found inside it are the true ones.
            done = distance[:, -1] <= radius
        indices[open_queries[done]] = found[done]
        distances[open_queries[done]] = distance[done]
        open_queries = open_queries[~done]
        radius *= 2
    return indices, distances


def points_within(points: NDArray[np.floating], queries: ArrayLike, radius: float) -> list[NDArray[np.int64]]:
    """Indices of all ``points`` (n, 3) at most ``radius`` away from each of the (q, 3) ``queries``, ascending.

    Raises
    ------
    ValueError
        If a query is not finite.
    """
    query_points = _as_points(queries)
    if not np.isfinite(query_points).all():
        raise ValueError("points_within needs finite query points.")
    if len(query_points) == 0:
        return []
    candidates = np.flatnonzero(_in_boxes(points, query_points, np.full(len(query_points), radius)))
    if len(candidates) == 0:
        return [candidates for _ in query_points]
    tree = cKDTree(points[candidates], balanced_tree=False, compact_nodes=False)
    balls = tree.query_ball_point(query_points, radius, return_sorted=True)
    return [candidates[np.asarray(ball, dtype=np.int64)] for ball in balls]


class SurfaceLocator:
    """Projects points onto one scan (paper, section on post-processing: predictions are snapped to the surface).

    Vertices that belong to no triangle are no surface and are ignored (unless the mesh has no triangles at all).
    One locator may serve several threads: apart from a cached array it does not change.

    Parameters
    ----------
    mesh : the scan; results are in its frame and unit.
    """

    def __init__(self, mesh: TriangleMesh) -> None:
        self._points = mesh.points
        self._triangles = mesh.triangles
        self._surface_vertices: NDArray[np.int64] | None = None
        if len(mesh.triangles):
            used = np.zeros(len(mesh.points), dtype=bool)
            used[mesh.triangles.ravel()] = True
            if not used.all():
                self._surface_vertices = np.flatnonzero(used)
        self._extents: NDArray[np.float32] | None = None

    def put(
        self, queries: ArrayLike, surface: str, outward: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Points (q, 3) on the scan for the (q, 3) ``queries``, and how far (q,) these are from its triangles.

        ``surface``: one of ``SURFACES``. ``outward`` as for ``nearest_on_surface``.
        """
        on_surface, distances = self.nearest_on_surface(queries, outward)
        if surface == "vertex":
            on_surface = self.nearest_vertex(queries)[0]
        elif surface == "centroid":
            on_surface = self.centroid_of_nearest_vertices(queries)[0]
        return on_surface, distances

    def nearest_vertex(self, queries: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Nearest vertex of each of the (q, 3) ``queries``: points (q, 3) and distances (q,), in the mesh's unit."""
        indices, distances = self._nearest_vertices(queries, 1)
        return self._points[indices[:, 0]].astype(np.float64), distances[:, 0]

    def centroid_of_nearest_vertices(
        self, queries: ArrayLike, count: int = 10
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centroid of the ``count`` nearest vertices (paper: K nearest) of each query.

        Duplicated vertices of unwelded meshes count as often as they occur, as in the published code.

        Returns
        -------
        points : (q, 3) centroids, in the mesh's frame. They smooth noise but may lie slightly off the surface.
        distances : (q,) from query to centroid.
        """
        indices, _ = self._nearest_vertices(queries, min(count, self._vertex_count))
        centroids = self._points[indices].mean(axis=1)
        return centroids, np.linalg.norm(centroids - _as_points(queries), axis=1)

    def nearest_on_surface(
        self, queries: ArrayLike, outward: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Exact nearest point on the triangles.

        Parameters
        ----------
        queries : (q, 3) in the mesh's frame.
        outward : (q, 3) where the skin around each query faces, for meshes in millimetres wound outwards: of the two
            sides of a thin part, like the rim of an ear, the one that faces there is taken. Otherwise a point halfway
            between them would go to either by chance.

        Returns
        -------
        points : (q, 3) on the surface.
        distances : (q,) in the mesh's unit; without ``outward`` never more than that of the nearest vertex.

        Raises
        ------
        ValueError
            If the mesh has no triangles.
        """
        if len(self._triangles) == 0:
            raise ValueError("nearest_on_surface needs a mesh with triangles.")
        query_points = _as_points(queries)
        best, bound = self.nearest_vertex(query_points)
        if len(query_points) == 0:
            return best, bound
        away = 0.0 if outward is None else _FACING_AWAY_MM
        query_of_pair, triangle_of_pair = self._triangles_within(query_points, bound + away)
        if len(query_of_pair) == 0:
            return best, bound
        corners = self._points[self._triangles[triangle_of_pair]].astype(np.float64)
        closest = closest_points_on_triangles(query_points[query_of_pair], corners)
        distances = np.linalg.norm(closest - query_points[query_of_pair], axis=1)
        cost = distances
        if outward is not None:
            normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            cost = distances + away * (_dot(normals, outward[query_of_pair]) < 0)
        order = np.lexsort((cost, query_of_pair))
        queries_found, first = np.unique(query_of_pair[order], return_index=True)
        winners = order[first]
        better = cost[winners] < bound[queries_found] + away
        best[queries_found[better]] = closest[winners[better]]
        bound[queries_found[better]] = distances[winners[better]]
        return best, bound

    @property
    def _vertex_count(self) -> int:
        return len(self._points if self._surface_vertices is None else self._surface_vertices)

    def _nearest_vertices(self, queries: ArrayLike, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        if self._surface_vertices is None:
            return nearest_points(self._points, queries, count)
        indices, distances = nearest_points(self._points[self._surface_vertices], queries, count)
        return self._surface_vertices[indices], distances

    def _triangles_within(
        self, queries: NDArray[np.float64], bound: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs (query, triangle) whose bounding boxes come as near as ``bound`` (q,): a superset of what can win."""
        if self._extents is None:
            self._extents = _triangle_extents(self._points, self._triangles)
        extents = self._extents
        # A triangle that touches the ball around a query has its corners within bound + √3 × its extent of the query.
        # The few longest triangles (ragged borders, filled holes) would spoil that limit: they are always tested.
        rank = max(int(0.99 * (len(extents) - 1)), len(extents) - 1 - _LONG_TRIANGLES)
        usual_extent = float(np.partition(extents, rank)[rank])
        reach = bound * (1 + 1e-9) + np.sqrt(3.0) * usual_extent
        vertices = np.flatnonzero(_in_boxes(self._points, queries, reach))
        touched = np.zeros(len(self._points), dtype=bool)
        if len(vertices):
            tree = cKDTree(self._points[vertices], balanced_tree=False, compact_nodes=False)
            # No vertex is nearer than the bound, so these balls hold thin caps of the surface only.
            for found in tree.query_ball_point(queries, reach, return_sorted=False):
                touched[vertices[found]] = True
        is_near = np.zeros(len(extents), dtype=bool)
        for part in _chunks(len(extents)):
            first, second, third = np.ascontiguousarray(self._triangles[part].T)
            is_near[part] = touched[first] | touched[second] | touched[third]
        long = np.flatnonzero(extents > usual_extent)
        is_near[long] = False
        usual = np.flatnonzero(is_near)
        low, high = _bounding_boxes(self._points[self._triangles[long].T])
        outside = np.maximum(np.maximum(low - queries[:, None], queries[:, None] - high), 0.0)
        # A relative margin keeps rounding from dropping a triangle that only touches the ball.
        margin = 1 + 1e-9
        query_of_pair, column = np.nonzero(_dot(outside, outside) <= (bound**2 * margin)[:, None])
        triangle_of_pair = long[column]
        if len(usual):
            corners = self._points[self._triangles[usual]]
            centroids = corners.mean(axis=1)
            radius = np.sqrt(_dot(corners - centroids[:, None], corners - centroids[:, None]).max())
            tree = cKDTree(centroids, balanced_tree=False, compact_nodes=False)
            balls = tree.query_ball_point(queries, (bound + radius) * margin, return_sorted=True)
            query_of_ball = np.repeat(np.arange(len(queries)), [len(ball) for ball in balls])
            in_ball = np.concatenate([np.asarray(ball, dtype=np.int64) for ball in balls])
            low, high = _bounding_boxes(corners[in_ball].swapaxes(0, 1))
            centres = queries[query_of_ball]
            outside = np.maximum(np.maximum(low - centres, centres - high), 0.0)
            touching = _dot(outside, outside) <= bound[query_of_ball] ** 2 * margin
            query_of_pair = np.concatenate([query_of_pair, query_of_ball[touching]])
            triangle_of_pair = np.concatenate([triangle_of_pair, usual[in_ball[touching]]])
        return query_of_pair, triangle_of_pair


def closest_points_on_triangles(points: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nearest point on triangle i to point i, exact also for degenerate triangles.

    Parameters
    ----------
    points : (n, 3).
    corners : (n, 3, 3): triangle, corner, coordinate; same frame and unit.

    Returns
    -------
    (n, 3) points on the triangles.
    """
    origin = corners[:, 0]
    edge_1, edge_2 = corners[:, 1] - origin, corners[:, 2] - origin
    offset = points - origin
    # Barycentric coordinates of the foot point in the triangle's plane, from the normal equations.
    d11, d12, d22 = _dot(edge_1, edge_1), _dot(edge_1, edge_2), _dot(edge_2, edge_2)
    p1, p2 = _dot(offset, edge_1), _dot(offset, edge_2)
    determinant = d11 * d22 - d12 * d12
    flat = determinant <= 1e-14 * d11 * d22
    safe = np.where(flat, 1.0, determinant)
    u, v = (d22 * p1 - d12 * p2) / safe, (d11 * p2 - d12 * p1) / safe
    inside = ~flat & (u >= 0) & (v >= 0) & (u + v <= 1)
    closest = origin + u[:, None] * edge_1 + v[:, None] * edge_2
    outside = np.flatnonzero(~inside)
    if len(outside):
        # Otherwise the nearest point lies on one of the three edges.
        start = corners[outside]
        edge = np.roll(start, -1, axis=1) - start
        length_2 = _dot(edge, edge)
        along = _dot(points[outside, None] - start, edge) / np.where(length_2 > 0, length_2, 1.0)
        on_edge = start + np.clip(along, 0.0, 1.0)[..., None] * edge
        gap = on_edge - points[outside, None]
        closest[outside] = on_edge[np.arange(len(outside)), _dot(gap, gap).argmin(axis=1)]
    return closest


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.einsum("...i,...i->...", a, b)


def _as_points(points: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(points, dtype=np.float64).reshape(-1, 3)


def _bounding_boxes(corners: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Lowest and highest coordinates (...) of triangles (3 corners, ...)."""
    first, second, third = corners
    return np.minimum(np.minimum(first, second), third), np.maximum(np.maximum(first, second), third)


def _tree_query(
    points: NDArray[np.floating], queries: NDArray[np.float64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    # An unbalanced tree is built twice as fast and is searched only a few dozen times.
    distances, indices = cKDTree(points, balanced_tree=False, compact_nodes=False).query(queries, k=count)
    shape = (len(queries), count)
    return np.asarray(indices, dtype=np.int64).reshape(shape), np.asarray(distances).reshape(shape)


def _first_radius(points: NDArray[np.floating], queries: NDArray[np.float64], count: int) -> float:
    """A guess at the distance of the ``count``-th neighbour; a guess too small costs time, never correctness."""
    size = float(np.linalg.norm([np.ptp(points[:, axis]) for axis in range(3)]))
    spread = float(np.linalg.norm(np.ptp(queries, axis=0)))
    # Area of a scan is about half its diagonal squared.
    by_density = 1.5 * size * np.sqrt(0.5 * count / (np.pi * len(points)))
    return max(float(by_density), (spread or size) / 100, np.finfo(float).tiny)


def _in_boxes(
    points: NDArray[np.floating], centres: NDArray[np.float64], half_widths: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which points (n, 3) lie in any of the boxes centre ± half width, or at most one grid cell beside one.

    One look-up per point in a boolean grid over the boxes, so that the cost does not grow with the number of boxes.
    """
    low = (centres - half_widths[:, None]).min(axis=0)
    high = (centres + half_widths[:, None]).max(axis=0)
    cell = max(float(half_widths.min()) / 2, float((high - low).max()) / _GRID_CELLS, np.finfo(float).tiny)
    shape = np.floor((high - low) / cell).astype(np.int64) + 1
    marked = np.zeros(tuple(shape), dtype=bool)
    starts = np.floor((centres - half_widths[:, None] - low) / cell).astype(np.int64)
    stops = np.floor((centres + half_widths[:, None] - low) / cell).astype(np.int64) + 1
    for start, stop in zip(np.maximum(starts, 0), stops):
        marked[start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]] = True

    result = np.zeros(len(points), dtype=bool)
    for part in _chunks(len(points)):
        block = points[part]
        within = np.flatnonzero(
            (block[:, 0] >= low[0])
            & (block[:, 0] <= high[0])
            & (block[:, 1] >= low[1])
            & (block[:, 1] <= high[1])
            & (block[:, 2] >= low[2])
            & (block[:, 2] <= high[2])
        )
        cells = np.minimum(((block[within] - low) / cell).astype(np.int64), shape - 1)
        result[part.start + within] = marked[cells[:, 0], cells[:, 1], cells[:, 2]]
    return result


def _triangle_extents(points: NDArray[np.floating], triangles: NDArray[np.int64]) -> NDArray[np.float32]:
    """Longest side of each triangle's bounding box (m,), rounded up."""
    extents = np.empty(len(triangles), dtype=np.float32)
    for piece, corners in corners_in_pieces(np.ascontiguousarray(points.T), triangles):
        low, high = _bounding_boxes(corners)
        extents[piece] = (high - low).max(axis=0) * (1 + 1e-6)
    return extents


def _chunks(length: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, length)) for start in range(0, length, _CHUNK))
