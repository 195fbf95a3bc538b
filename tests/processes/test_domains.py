"""processes/domains.py: heads against the published ones, projections, and what data may not be."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from md4jax.processes.domains import DOMAINS, NEAR_ZERO

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "star_domains.npz")
ULP = 2.0**-24  # Of a rounding to float32.
# Data of two points or matrices each, and what their head takes.
SHAPES = {
    "simplex": ((2, 4), (2, 4), 6),
    "spd": ((2, 3, 3), (2, 6), 12),
    "sphere": ((2, 4), (2, 4), 6),
    "circle": ((2, 4), (2, 4, 2), 8),
    "positive": ((2, 4), (2, 4), 8),
    "interval": ((2, 4), (2, 4), 8),
    "real": ((2, 4), (2, 4), 8),
}
EACH = pytest.mark.parametrize("name", DOMAINS)


def outputs(name, n=500):
    """Free numbers: of ordinary size, large and tiny ones, and exactly none."""
    rng = np.random.default_rng(0)
    o = rng.normal(size=(n, *SHAPES[name][1]))
    o *= 10.0 ** rng.integers(-4, 2, (n, *[1] * (o.ndim - 1)))
    o[0] = 0
    return o.astype(np.float32)


def off(name, n=500):
    """Numbers that are hardly ever of the domain."""
    return np.random.default_rng(1).normal(0, 2, (n, *SHAPES[name][0])).astype(np.float32)


@EACH
def test_shapes(name):
    shape, head_shape, dimension = SHAPES[name]
    assert DOMAINS[name].head_shape(shape) == head_shape
    assert DOMAINS[name].dimension(shape) == dimension


@pytest.mark.parametrize(("name", "key"), [("simplex",) * 2, ("sphere",) * 2, ("spd", "pdm_2x2")])
def test_heads_are_the_published_ones(name, key):
    """Within 8 roundings of the largest entry: of three exponentials or products and their sum."""
    published = GOLDEN[f"domain/{key}"]
    ours = DOMAINS[name].head(jnp.asarray(GOLDEN["domain/in"]))
    published = published.reshape(ours.shape)
    np.testing.assert_allclose(ours, published, rtol=0, atol=8 * ULP * np.abs(published).max())


@EACH
def test_heads_give_points_with_a_gradient_everywhere(name):
    domain, o = DOMAINS[name], outputs(name)
    weight = np.random.default_rng(2).normal(size=SHAPES[name][0]).astype(np.float32)

    @jax.jit
    def head_and_slope(o):
        x, pull = jax.vjp(domain.head, o)
        return x, *pull(jnp.broadcast_to(weight, x.shape))

    x, slope = map(np.asarray, head_and_slope(o))
    assert x.shape == (len(o), *SHAPES[name][0]) and x.dtype == np.float32
    assert np.isfinite(x).all()
    if name == "spd":  # Of 1e-4 I + L Lᵀ with L of size 10 the least eigenvalue is rounding.
        x = x[np.abs(o).max(axis=(1, 2)) < 1]
    assert domain.problem(x) is None
    assert np.isfinite(slope).all()
    # 1 / |o| of a direction, times a cotangent; 2 |L| of a matrix.
    largest = max(1 / NEAR_ZERO, 4 * np.abs(o).max()) * 4 * np.abs(weight).max()
    assert np.abs(slope).max() < largest
    # A fresh network gives zeros, and has to get away from there.
    assert 0.01 < np.abs(slope[0]).max() < 10


@EACH
def test_projections_are_the_nearest_points(name):
    """Of 200 others, which the head gives, none is nearer, but for rounding; twice is once."""
    domain, x = DOMAINS[name], off(name)

    @jax.jit
    def project(x, o):
        inside = domain.project(x)
        return inside, domain.project(inside), domain.head(o)

    inside, again, others = map(np.asarray, project(x, outputs(name, 200)))
    assert inside.shape == x.shape and inside.dtype == np.float32
    assert domain.problem(inside) is None
    # The eigenvalues of what is put together again are off by some roundings.
    np.testing.assert_allclose(again, inside, rtol=0, atol=16 * ULP * np.abs(inside).max())
    if name == "circle":  # Distances are those of angles there.
        np.testing.assert_allclose(np.cos(inside - x), 1, rtol=0, atol=1e-6)
        return
    distance = lambda y: np.linalg.norm((x[:, None] - y).reshape(len(x), -1, x[0].size), axis=-1)
    assert (distance(inside[:, None]) <= distance(others[None]) + 1e-5).all()


def test_projections_by_hand():
    project = lambda name, x: np.asarray(DOMAINS[name].project(jnp.asarray([x], jnp.float32))[0])
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6)
    close(project("simplex", [0.5, 0.5, 2.0]), [0, 0, 1])
    close(project("simplex", [0.6, 0.6, 0.1]), [0.5, 0.5, 0])
    close(project("sphere", [0.0, 0.0, 0.0]), [1, 0, 0])
    close(project("sphere", [0.0, -3.0, 4.0]), [0, -0.6, 0.8])
    close(project("spd", [[1.0, 4.0], [0.0, -1.0]]), project("spd", [[1.0, 2.0], [2.0, -1.0]]))
    pi = float(np.float32(np.pi))
    np.testing.assert_array_equal(project("circle", [pi, -pi, 0.3]), np.float32([-pi, -pi, 0.3]))
    close(project("circle", [np.pi + 1, -np.pi - 1, 7.0]), [1 - np.pi, np.pi - 1, 7 - 2 * np.pi])


def test_the_circle_is_where_cosine_and_sine_say():
    angle = np.linspace(-np.pi, np.pi, 101)[:-1]
    o = 0.3 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    ours = DOMAINS["circle"].head(jnp.asarray(o[None], jnp.float32))[0]
    np.testing.assert_allclose(np.exp(1j * np.asarray(ours)), np.exp(1j * angle), atol=1e-6)
    assert ours.min() >= -np.float32(np.pi) and ours.max() < np.float32(np.pi)


@pytest.mark.parametrize(
    ("name", "array", "problem"),
    [
        ("simplex", np.array([[0.5, 0.5], [0.5, 0.8]]), "row 1 sums to 1.3"),
        ("simplex", np.array([[1.5, -0.5]]), "row 0 has the negative value -0.5"),
        ("simplex", np.zeros(3), "shape [3] has no room for examples [.., k]"),
        ("spd", np.array([np.eye(2), -0.1 * np.eye(2)]), "example 1 is not positive definite (eig"
         "envalue -0.1)"),
        ("spd", np.ones((1, 2, 2)), "example 0 is not positive definite (eigenvalue"),
        ("spd", np.array([[[1.0, 0.5], [0.2, 1.0]]]), "example 0 is not symmetric (by 0.3)"),
        ("spd", np.ones((1, 2, 3)), "the examples are 2 x 3 and not square"),
        ("sphere", np.array([[1.0, 0.0], [0.0, 0.9]]), "row 1 has norm 0.9"),
        ("circle", np.array([[0.0], [4.0]]), "example 1 has value 4 outside [-pi, pi)"),
        ("positive", np.array([[1.0], [0.0]]), "example 1 has value 0, not above 0"),
        ("interval", np.array([[0.0, 1.0], [0.5, 1.2]]), "example 1 has value 1.2 outside [0, 1]"),
        ("real", np.array([[1.0], [np.nan]]), "example 1 has a value that is not finite"),
        ("sphere", np.array([[np.inf, 0.0]]), "example 0 has a value that is not finite"),
    ],
)  # fmt: skip
def test_problems_name_the_example(name, array, problem):
    found = DOMAINS[name].problem(array)
    assert found.startswith(problem) and "\n" not in found


@EACH
def test_float32_is_no_problem(name):
    """What float64 says is right is right after rounding."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 2, 4))
    array = {
        "simplex": rng.dirichlet(np.full(4, 0.3), (1000, 2)),
        "sphere": x / np.linalg.norm(x, axis=-1, keepdims=True),
        "spd": x[..., None] * x[..., None, :] + 1e-3 * np.eye(4),
        "circle": np.angle(np.exp(3j * x)),
        "positive": np.exp(x),
        "interval": 1 / (1 + np.exp(-9 * x)),
        "real": x,
    }[name]
    assert DOMAINS[name].problem(array.astype(np.float32)) is None
