"""Pictures of points of the domains: that there is one for all, and that things are in place."""

import types

import matplotlib.colors
import numpy as np
import pytest

from md4jax.data.base import ArraySplit
from md4jax.processes.domains import DOMAINS
from md4jax.samplers.generate import Film, draw_film, draw_samples
from md4jax.visualize_charts import (
    SAMPLES,
    Ellipses,
    _limits,
    ellipses,
    equal_earth,
    triangle,
    triangle_density,
)
from md4jax.visualize_manifolds import CHARTS, STYLE, _Page, draw, panels

RNG = np.random.default_rng(0)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def spd(n, d):
    root = RNG.standard_normal((n, d, d))
    return root @ root.swapaxes(1, 2) + 0.1 * np.eye(d)


def angles(*shape):
    return RNG.uniform(-np.pi, np.pi, shape)


# Name: domain, n examples.
EXAMPLES = {
    "triangle": ("simplex", lambda n: RNG.dirichlet([1, 2, 3], n)),
    "points of simplexes": ("simplex", lambda n: RNG.dirichlet([1, 2, 3], (n, 2))),
    "simplex of 5": ("simplex", lambda n: RNG.dirichlet(np.ones(5), n)),
    "ellipses": ("spd", lambda n: spd(n, 2)),
    "matrices of 4": ("spd", lambda n: spd(n, 4)),
    "map": ("sphere", lambda n: unit(RNG.standard_normal((n, 3)))),
    "sphere of 2": ("sphere", lambda n: unit(RNG.standard_normal((n, 2)))),
    "rose": ("circle", lambda n: angles(n)),
    "roses": ("circle", lambda n: angles(n, 4)),
    "positive": ("positive", lambda n: RNG.gamma(0.5, 1, (n, 1))),
    "interval": ("interval", lambda n: RNG.beta(2, 2, (n, 2))),
    "one number": ("real", lambda n: RNG.standard_normal(n)),
    "plane": ("real", lambda n: RNG.standard_normal((n, 2))),
    "many numbers": ("real", lambda n: RNG.standard_normal((n, 4, 4, 1))),
}


def is_picture(picture):
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert (picture[[0, -1]] == 255).all()  # White ground, nothing cut off.
    return (picture != 255).any()


def places(picture, colour):
    """Rows and columns of pixels of just this colour."""
    rgb = np.rint(255 * np.array(matplotlib.colors.to_rgb(colour))).astype(int)
    return np.argwhere((abs(picture.astype(int) - rgb) <= 6).all(-1))


def test_every_domain_has_a_chart_and_an_example():
    assert set(CHARTS) == set(DOMAINS) == {domain for domain, _ in EXAMPLES.values()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_pictures(name):
    """Of samples and data, and of a single sample."""
    domain, sample = EXAMPLES[name]
    before = {key: matplotlib.rcParams[key] for key in STYLE}
    for picture in (draw(domain, sample(700), sample(900), "a title"), draw(domain, sample(1))):
        assert is_picture(picture) and 900 <= picture.shape[1] <= 1200 and picture.shape[0] < 900
    assert before == {key: matplotlib.rcParams[key] for key in STYLE}


@pytest.mark.parametrize("name", EXAMPLES)
def test_films(name):
    """Some frames far off the domain, at one point, empty, or with what is no number."""
    domain, sample = EXAMPLES[name]
    far, lost, part = -50 * sample(40), np.nan * sample(40), sample(40)
    far[:9] *= 1e300
    part[:3], part[9:] = np.inf, 0
    frames = [far, lost, part, sample(1), sample(1)[:0], sample(40)]
    assert is_picture(panels(domain, frames, list("abcdef"), rows=2, reference=sample(50)))
    assert is_picture(panels(domain, [lost], ["a"]))


def test_number_left_out_is_said(monkeypatch):
    said = []
    monkeypatch.setattr(_Page, "text", lambda self, left, top, text, **options: said.append(text))
    x = RNG.standard_normal((1500, 2))
    x[7, 1], x[9] = np.nan, np.inf
    draw("real", x, x[:1], "title")
    draw("spd", spd(200, 2), title="title")
    panels("real", [x, x[:5]], ["t = 1.00", "sample"])
    found = ["title", "■ samples: 1,498 (2 not finite, left out)", "■ data: 1"]
    found += ["title", "samples: 200 (100 drawn)", "t = 1.00\n2 not finite", "sample"]
    assert said == found


def test_films_need_a_title_for_each_frame():
    for frames, titles in (([], []), ([np.zeros(3)], ["a", "b"])):
        with pytest.raises(ValueError, match=f"{len(frames)} frames and {len(titles)} titles"):
            panels("real", frames, titles)


def test_corners_of_the_simplex():
    np.testing.assert_allclose(triangle(np.eye(3)), [[0, 0], [1, 0], [0.5, 0.75**0.5]])
    left, right, top = (
        places(draw("simplex", np.tile(row, (100, 1))), SAMPLES).mean(0) for row in np.eye(3)
    )
    assert abs(left[0] - right[0]) < 1 and abs(top[1] - (left[1] + right[1]) / 2) < 1
    side = right[1] - left[1]
    assert side > 300 and abs(left[0] - top[0] - side * 0.75**0.5) < 2


def test_density_on_the_simplex():
    """Its integral is 1, points are not moved, and points spread evenly have density 1."""
    x = np.concatenate(
        [RNG.dirichlet([1, 1, 1], 20_000), np.eye(3), [[0.5, 0.5, 0], [0.2, 0, 0.8]]]
    )
    for part in (x, x[:1], x[-5:]):
        nodes, density = triangle_density(part, 10)
        assert nodes.shape == (66, 3)
        np.testing.assert_allclose(nodes.sum(-1), 1)
        shares = density * np.choose((nodes == 0).sum(-1), [6, 3, 1]) / 300
        np.testing.assert_allclose([shares.sum(), *shares @ nodes], [1, *part.mean(0)], atol=1e-12)
    nodes, density = triangle_density(x[:20_000], 10)
    # A corner's share is 1/300, of 20,000 points with weights of mean square 1/6: relative standard
    # error sqrt(1/2 * 3 * 100 / 20,000) < 0.1 there, less elsewhere; five of them.
    np.testing.assert_allclose(density, 1, atol=0.5)


def test_the_map():
    right, top = equal_earth(np.pi, 0)[0], equal_earth(0, np.pi / 2)[1]
    np.testing.assert_allclose([right, top], [2.7066299836, 1.3173627591], rtol=1e-9)  # Published.
    np.testing.assert_allclose(equal_earth(np.linspace(-3, 3, 7), 0.0)[:, 1], 0)
    longitude, latitude = RNG.uniform(-3, 3, 9), RNG.uniform(-1.5, 1.5, 9)
    place = equal_earth(longitude, latitude)
    np.testing.assert_allclose(equal_earth(longitude, -latitude), place * [1, -1])
    np.testing.assert_allclose(equal_earth(-longitude, latitude), place * [-1, 1])
    # Equal areas: dx/dlongitude dy/dlatitude is cos(latitude) times a constant, 1.
    h = 1e-5
    wide = equal_earth(longitude + h, latitude)[:, 0] - equal_earth(longitude - h, latitude)[:, 0]
    high = equal_earth(longitude, latitude + h)[:, 1] - equal_earth(longitude, latitude - h)[:, 1]
    np.testing.assert_allclose(wide * high / (4 * h * h), np.cos(latitude), rtol=1e-4)


def test_places_on_the_map():
    """East is right, north above."""
    points = np.array([[1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]])
    middle, east, west, north, south = (
        places(panels("sphere", [np.tile(x, (100, 1))], [""]), SAMPLES).mean(0) for x in points
    )
    half_width, half_height = (east[1] - west[1]) / 2, (south[0] - north[0]) / 2
    found = [east, west, north, south] - middle
    expected = [[0, half_width], [0, -half_width], [-half_height, 0], [half_height, 0]]
    np.testing.assert_allclose(found, expected, atol=2)
    assert half_width / half_height == pytest.approx(2.70663 / 2 / 1.31736, rel=0.02)


def test_ellipses_have_their_axes():
    lines = ellipses(np.array([[[9.0, 0.0], [0.0, 4.0]], [[5.0, 3.0], [3.0, 5.0]]]))
    np.testing.assert_allclose(abs(lines[0]).max(0), [3, 2])
    radius = np.linalg.norm(lines[1], axis=-1)
    np.testing.assert_allclose([radius.max(), radius.min()], [8**0.5, 2**0.5])
    far = lines[1][radius.argmax()]
    assert far[0] == pytest.approx(far[1])
    np.testing.assert_allclose(lines[:, 0], lines[:, -1], atol=1e-12)


def test_an_ellipse_in_the_picture():
    """(3, 2) semi-axes by its pixels, and the colour of its direction."""
    chart, matrix = Ellipses(), np.array([[[9.0, 0.0], [0.0, 4.0]]])
    with matplotlib.rc_context(STYLE):
        page = _Page(4, 4)
        lines, _ = chart.paint([page.axes(0, 0, 4, 4)], matrix, None, 4.0, False)
    np.testing.assert_allclose(lines.get_array(), 0)
    picture = page.pixels().astype(int)
    inked = np.argwhere(picture.max(-1) - picture.min(-1) > 60)
    np.testing.assert_allclose(np.ptp(inked, axis=0), [200, 300], atol=4)
    np.testing.assert_allclose(inked.mean(0), 200, atol=2)


def test_few_points_are_all_in_the_histogram():
    """Those beyond the axes at its ends."""
    chart = CHARTS["real"]((1,), 6)
    target = np.linspace(0, 1, 101)[:, None]
    clouds = [np.array([[-1e9], [0.5], [1e9]])]
    edges, _ = chart.scale(target, clouds)
    density = chart._density(clouds[0][:, 0], edges[:, 0]) * np.diff(edges[:, 0])
    np.testing.assert_allclose(density[[0, -1]], 1 / 3)
    np.testing.assert_allclose(density.sum(), 1)


def test_axes_are_made_for_the_data():
    target = np.linspace(0, 1, 1001)[:, None]
    low, high = _limits(target, [target])[:, 0]
    assert -0.05 < low < 0 and 1 < high < 1.05
    low, high = _limits(target, [target + 0.5])[:, 0]
    assert -0.1 < low < 0 and 1.45 < high < 1.6
    low, high = _limits(target, [1000 * target])[:, 0]
    assert -0.1 < low < 0.01 and 2.4 < high < 2.8
    np.testing.assert_allclose(_limits(np.full((3, 1), 2.0), [])[:, 0], [0, 4])


def test_what_a_model_draws(monkeypatch):
    """Samples beside the data, and films whose panels say at what time they are."""
    split = ArraySplit(RNG.dirichlet([1, 2, 3], 700))
    model = types.SimpleNamespace(
        spec=types.SimpleNamespace(vocab_size=None, domain="simplex"),
        dataset=types.SimpleNamespace(splits={"train": split}),
    )
    film = np.stack([RNG.dirichlet([1, 2, 3], 30) for _ in range(4)], axis=1)
    assert is_picture(draw_samples(model, film[:, 0]))
    said = []
    monkeypatch.setattr(_Page, "text", lambda self, left, top, text, **options: said.append(text))
    titles = [["t = 1.00", "t = 0.70", "t = 0.30", "sample"], ["one", "two", "three", "four"]]
    assert is_picture(draw_film(model, Film((film[::-1], film), titles)))
    assert said == titles[0] + titles[1]
