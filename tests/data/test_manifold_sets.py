"""Real data: the laws of the mixtures, events on earth, arrays of one's own, and the pipeline."""

import pathlib
import types

import jax
import numpy as np
import pytest
from scipy.special import digamma, polygamma
from scipy.stats import beta, chi2, kstest

import md4jax
from md4jax import modes
from md4jax.data.base import ArraySplit, fingerprint, value_range
from md4jax.data.describe import describe, entropies, load_dataset
from md4jax.data.digits import Digits
from md4jax.data.manifold_npz import ManifoldNpz
from md4jax.data.pipeline import eval_batches
from md4jax.data.simplex_mixture import MIXTURES as DIRICHLETS
from md4jax.data.simplex_mixture import SimplexMixture
from md4jax.data.spd_mixture import MIXTURES as WISHARTS
from md4jax.data.spd_mixture import SpdMixture
from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.processes.domains import DOMAINS
from md4jax.samplers.generate import draw_samples

EARTH = pathlib.Path(__file__).parents[2] / "../shared/data/small/earth"
N = 100_000
KS = 2.6 / N**0.5  # Exceeded by chance with a rate of 2 exp(-2 2.6^2) = 2.7e-6.
SIGMAS = 5  # Of a mean: exceeded with a rate of 5.7e-7.


def everything(split):
    return split.gather(np.arange(len(split)))["x0"]


def assert_mean(values, mean, variance):
    """The mean of N draws, a mean and a variance known, within `SIGMAS` standard errors."""
    assert abs(values.astype(np.float64).mean() - mean) < SIGMAS * (variance / N) ** 0.5


# Mixtures.


@pytest.mark.parametrize("name", DIRICHLETS)
def test_the_simplex_mixtures_have_their_law(name):
    """Each coordinate by Kolmogorov and Smirnov, each product of two by its mean; n = 100,000."""
    data = SimplexMixture(mixture=name).load()
    x = everything(data.splits["train"])
    assert x.shape == (N, 3) and x.dtype == np.float32 and (x > 0).all()
    assert data.spec == DataSpec((3,), None, domain="simplex")
    parts = [(weight, np.array(a)) for weight, a in DIRICHLETS[name]]
    for i in range(3):
        law = lambda v, i=i: sum(w * beta.cdf(v, a[i], a.sum() - a[i]) for w, a in parts)
        assert kstest(x[:, i], law).statistic < KS
        j = (i + 1) % 3
        moment = lambda p, i=i, j=j: sum(
            w * rising(a[i], p) * rising(a[j], p) / rising(a.sum(), 2 * p) for w, a in parts
        )
        assert_mean(x[:, i] * x[:, j], moment(1), moment(2) - moment(1) ** 2)


def rising(a, n):
    """a (a + 1) ... (a + n - 1)."""
    return np.prod(a + np.arange(n))


@pytest.mark.parametrize("name", WISHARTS)
def test_the_spd_mixtures_have_their_law(name):
    """Diagonals are chi-squared; the corner and log det have known moments; n = 100,000."""
    data = SpdMixture(mixture=name).load()
    x = everything(data.splits["train"]).astype(np.float64)
    assert x.shape == (N, 2, 2) and data.spec == DataSpec((2, 2), None, domain="spd")
    np.testing.assert_array_equal(x, x.swapaxes(1, 2))
    parts = [(weight, n, mean / n) for weight, n, mean in WISHARTS[name]]
    for i in range(2):
        law = lambda v, i=i: sum(w * chi2.cdf(v / S[i, i], n) for w, n, S in parts)
        assert kstest(x[:, i, i], law).statistic < KS
    moments = [(w, n * S[0, 1], n * (S[0, 1] ** 2 + S[0, 0] * S[1, 1])) for w, n, S in parts]
    assert_mean(x[:, 0, 1], *mixed(moments))
    halves = [(w, np.array([n, n - 1]) / 2, S) for w, n, S in parts]
    moments = [
        (w, (digamma(h) + np.log(2)).sum() + np.log(np.linalg.det(S)), polygamma(1, h).sum())
        for w, h, S in halves
    ]
    assert_mean(np.log(np.linalg.det(x)), *mixed(moments))


def mixed(moments):
    """Mean and variance of a mixture of `(weight, mean, variance)`."""
    mean = sum(w * m for w, m, _ in moments)
    return mean, sum(w * (v + m**2) for w, m, v in moments) - mean**2


@pytest.mark.parametrize("cls", [SimplexMixture, SpdMixture])
def test_mixtures_are_a_function_of_the_seed(cls):
    small = dict(num_train=50, num_test=20)
    one, again, other = (cls(seed=s, **small).load() for s in (0, 0, 1))
    train, test = (everything(one.splits[name]) for name in ("train", "test"))
    assert (len(train), len(test)) == (50, 20)
    np.testing.assert_array_equal(train, everything(again.splits["train"]))
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert not np.isin(train, test).all() and not np.isin(train[:20], test).any()


# Points of one's own.


def npz(folder, **arrays):
    np.savez(folder / "points.npz", **arrays)
    return str(folder / "points.npz")


ANGLES = np.linspace(-3, 3, 7)


def test_points_of_ones_own(tmp_path):
    data = ManifoldNpz(path=npz(tmp_path, train=ANGLES, test=ANGLES[:2]), domain="circle").load()
    assert data.spec == DataSpec((1,), None, domain="circle")
    assert set(data.splits) == {"train", "test"}
    x = data.splits["train"].gather(np.array([6, 0]))["x0"]
    assert x.dtype == np.float32 and x.tolist() == [[3.0], [-3.0]]
    path = npz(tmp_path, train=np.ones((4, 3, 2), int))
    assert ManifoldNpz(path=path).load().spec == DataSpec((3, 2), None, domain="real")


@pytest.mark.parametrize(
    ("arrays", "domain", "message"),
    [
        ({"test": ANGLES}, "real", "has no array train, only test"),
        ({"train": ANGLES}, "interval", r"'interval': example 0 has value -3 outside \[0, 1\]"),
        ({"train": np.eye(3), "valid": np.ones((2, 3))}, "sphere",
         "valid is not of the domain 'sphere': row 0 has norm 1.73205"),
        ({"train": ANGLES}, "simplex", r"train .* shape \[7, 1\] has no room|row 0"),
        ({"train": np.eye(3), "test": np.eye(2)}, "real", "train, test differ in shape"),
        ({"train": np.zeros((0, 2))}, "real", r"should be \[N, \*shape\] and is \[0, 2\]"),
        ({"train": np.array(["a"])}, "real", "train should be of real numbers and is <U1"),
        ({"train": np.array([1e39])}, "real", "example 0 has a value that is not finite"),
        ({"train": np.array([None])}, "real", "cannot be read as .npz"),
    ],
)  # fmt: skip
def test_points_errors(tmp_path, arrays, domain, message):
    with pytest.raises(UserError, match=message) as error:
        ManifoldNpz(path=npz(tmp_path, **arrays), domain=domain).load()
    assert str(error.value).startswith("config.data.path = ") and "\n" not in str(error.value)


def test_points_that_are_no_file(tmp_path):
    with pytest.raises(UserError, match=r"no such file; make it with np.savez"):
        ManifoldNpz(path="none.npz").load()
    np.save(tmp_path / "a.npy", ANGLES)
    with pytest.raises(UserError, match="is one array"):
        ManifoldNpz(path=str(tmp_path / "a.npy")).load()


# The pipeline.


def test_integer_data_keep_their_fingerprints():
    assert repr(DataSpec((8, 8, 1), 17)) == (
        "DataSpec(shape=(8, 8, 1), vocab_size=17, num_classes=None, unit='dim')"
    )
    assert Digits().load().fingerprint == "a457d69c48098dc626289f2d39f4f61c"


def test_fingerprints_of_real_data():
    x = np.array([[0.2, 0.8], [0.5, 0.5]])
    real, simplex = (DataSpec((2,), None, domain=d) for d in ("real", "simplex"))
    mark = fingerprint(real, {"train": x})
    assert mark == fingerprint(real, {"train": x.astype(np.float32)})
    others = [fingerprint(simplex, {"train": x}), fingerprint(real, {"train": x + 1e-6})]
    assert len({mark, *others}) == 3
    assert value_range(x) == (0.2, 0.8) and value_range(np.arange(3)) == (0, 2)


def test_batches_are_float32():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    x = np.random.default_rng(0).normal(size=(5, 2, 2))
    batches = list(eval_batches(ArraySplit(x), 4, sharding))
    assert [b["x0"].dtype for b in batches] == [np.float32] * 2
    np.testing.assert_array_equal(batches[0]["x0"], x[:4].astype(np.float32))


def test_descriptions():
    values = {"name": "spd_mixture", "num_train": 30, "num_test": 2}
    data = load_dataset(values)
    page = describe(data, "spd_mixture")
    mean = everything(data.splits["train"]).astype(np.float64).mean(0)
    assert "domain          spd\n" in page and "2 x 2" in page
    assert f"mean            {mean[0, 0]:.4f} {mean[0, 1]:.4f}" in page and "deviation" in page
    assert entropies(data) == {}
    model = types.SimpleNamespace(dataset=data, spec=data.spec)
    assert modes._baselines(model) == ""


def test_samples_are_drawn():
    data = load_dataset({"name": "simplex_mixture", "num_train": 30, "num_test": 20})
    model = types.SimpleNamespace(dataset=data, spec=data.spec)
    picture = draw_samples(model, everything(data.splits["train"]))
    assert picture.dtype == np.uint8 and picture.shape[2] == 3


def config(**changes):
    return md4jax.make_config(
        **{
            "process": {"name": "gaussian", "target": "x0", "num_timesteps": 4},
            "network": {"name": "mlp", "feature_dim": 8, "num_layers": 1},
            "data": {"name": "spd_mixture", "num_train": 30, "num_test": 4},
            "sampler": {"name": "ancestral", "num_steps": 4, "num_samples": 4, "batch_size": 4},
            "optimizer": {"name": "adamw"},
            "train": {"num_steps": 2, "batch_size": 4},
            "eval": {"batch_size": 4, "time_points": 4},
            **changes,
        }
    )


def test_models_of_real_data_know_their_types():
    model = md4jax.assemble(config())
    batch = model.abstract_batch()["x0"]
    assert (batch.shape, batch.dtype) == ((4, 2, 2), np.float32)
    assert model.network.spec.out_shape == DOMAINS["spd"].head_shape((2, 2)) == (3,)


def test_real_values_are_no_images(tmp_path):
    path = npz(tmp_path, train=np.zeros((4, 2, 2, 1)))
    train = {"num_steps": 2, "batch_size": 4, "random_flip": True}
    data = {"name": "manifold_npz", "path": path}
    with pytest.raises(
        UserError, match="only images can be mirrored or moved; the data are real values"
    ):
        md4jax.assemble(config(data=data, train=train))
