"""Rigid motions: cam_from_world as 3 x 4 [R|t], their inverses, products, rotations."""

from __future__ import annotations

import numpy as np

from locate.types import Array


def compose(a_from_b: Array, b_from_c: Array) -> Array:
    """3 x 4 a_from_c."""
    rotation = a_from_b[:, :3]
    return np.asarray(np.c_[rotation @ b_from_c[:, :3], rotation @ b_from_c[:, 3] + a_from_b[:, 3]])


def invert(pose: Array) -> Array:
    """The inverse [R^T | -R^T t] of a 3 x 4 or 4 x 4 pose, 3 x 4."""
    pose = np.asarray(pose)
    return np.asarray(np.c_[pose[:3, :3].T, center_of(pose[:3])])


def transform(pose: Array, points: Array) -> Array:
    """M x 3 points of the world, in the axes of a camera: R x + t."""
    return np.asarray(points @ pose[:, :3].T + pose[:, 3])


def center_of(pose: Array) -> Array:
    """The centre of a camera, 3: -R^T t."""
    return np.asarray(-pose[:, :3].T @ pose[:, 3])


def centers_of(poses: Array) -> Array:
    """N x 3 centres of N x 3 x 4 poses."""
    return np.asarray(-np.einsum("nji,nj->ni", poses[:, :, :3], poses[:, :, 3]))


def adjoint(cam_from_rig: Array, rig_from_world: Array) -> Array:
    """6 x 6: how errors (d, w) of the rig's origin and rotation, as `Pose.covariance` orders them, move
    a camera of the rig. Its centre is c = o + R_wr a, a in the rig's axes; with o -> o + d and
    R_wr -> exp(w) R_wr it moves by d + w x R_wr a, and its rotation by the same w."""
    out = np.eye(6)
    offset = rig_from_world[:, :3].T @ center_of(cam_from_rig)
    out[:3, 3:] = -cross_matrices(offset[None])[0]
    return out


def rotation_of(vector: Array) -> Array:
    """3 x 3 rotation about `vector` by its length in radians (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    cross = cross_matrices(np.asarray(vector, np.float64)[None])[0]
    if angle < 1e-8:
        return np.asarray(np.eye(3) + cross + cross @ cross / 2)
    return np.asarray(
        np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * cross @ cross
    )


def cross_matrices(vectors: Array) -> Array:
    """M x 3 -> M x 3 x 3, the matrices [v]x."""
    x, y, z = vectors.T
    zero = np.zeros_like(x)
    return np.asarray(np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3))


def quaternion_of(rotation: Array) -> Array:
    """3 x 3 rotation -> unit quaternion (w, x, y, z), w >= 0 (Shepperd 1978: the largest of the four
    first, so that nothing is divided by a small number)."""
    r = np.asarray(rotation, np.float64)
    trace = float(np.trace(r))
    squares = np.array([trace, *np.diag(r)])
    k = int(squares.argmax())
    q = np.zeros(4)
    q[k] = 1 + (trace if k == 0 else 2 * squares[k] - trace)
    if k == 0:
        q[1:] = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    else:
        i, j, m = k - 1, k % 3, (k + 1) % 3
        q[0] = r[m, j] - r[j, m]
        q[j + 1] = r[j, i] + r[i, j]
        q[m + 1] = r[m, i] + r[i, m]
    q /= np.linalg.norm(q)
    return -q if q[0] < 0 else q
