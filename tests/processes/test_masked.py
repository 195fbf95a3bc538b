"""processes/masked.py against MD4's published numbers and closed forms."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.processes.masked import Masked
from md4jax.processes.masking import joint_reverse_sample, token_log_prob

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "md4_process.npz")
SCHEDULES = {
    "linear": dict(schedule="linear"),
    "cosine": dict(schedule="cosine"),
    "poly2": dict(schedule="polynomial", power=2.0),
    "poly3": dict(schedule="polynomial", power=3.0),
}


def golden(key):
    return jnp.asarray(GOLDEN[key])


def relative_error(value, reference):
    return float(jnp.max(jnp.abs(value - reference) / jnp.maximum(1, jnp.abs(reference))))


def keys_of(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_is_the_published_one(name):
    process, t = Masked(**SCHEDULES[name]), golden("t_grid")
    assert relative_error(process.alpha(t), golden(f"sched/{name}/alpha")) < 2e-7
    # The published weight divides by 1 - alpha as a float32 difference: 6e-8 / 1e-4 relative.
    published = golden(f"sched/{name}/dgamma_times_alpha")
    assert relative_error(process.loss_weight(t), published) < 1e-3


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_to_float64(name):
    """(2) and (5) keep float32's relative precision where a subtraction would not."""
    process = Masked(**SCHEDULES[name])
    t = np.array([1e-4, 1e-3, 0.03, 0.5, 0.999, 1.0], np.float32)
    exact = t.astype(np.float64)
    power = process.power or 1.0
    m = np.sin(np.pi * exact / 2) if name == "cosine" else exact**power
    np.testing.assert_allclose(
        process.mask_probability(jnp.asarray(t)), 1e-4 + 0.9998 * m, rtol=5e-7
    )
    h = float(np.float32(1e-5))
    s = exact - h
    m_s = np.sin(np.pi * s / 2) if name == "cosine" else s**power
    u = 0.9998 * (m - m_s) / (1e-4 + 0.9998 * m)
    np.testing.assert_allclose(process.unmask_probability(jnp.asarray(t), h), u, rtol=2e-6)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind,vocab_size", [("text", 27), ("image", 256)])
@pytest.mark.parametrize("steps", [None, 1000, 256, 8])
def test_loss_is_the_published_one(name, kind, vocab_size, steps):
    process = Masked(**SCHEDULES[name], num_timesteps=steps, vocab_size=vocab_size)
    t = process.time(golden(f"loss/{kind}/t"))
    x0, z_t = golden(f"loss/{kind}/x"), golden(f"loss/{kind}/zt")
    terms = process.bound_terms(keys_of(len(t)), golden(f"loss/{kind}/logits"), x0, z_t, t)
    published = golden(f"loss/{kind}/{name}/" + ("cont" if steps is None else f"T{steps}"))
    # Bounded by the published code's float32 differences (poly3 worst; see the facts it came with).
    tolerance = (1e-4 if steps is None else 2e-3) * (5 if name == "poly3" else 1)
    assert relative_error(terms["diffusion"], published) < tolerance
    expected = math.prod(x0.shape[1:]) * 1e-4 * math.log(vocab_size)
    np.testing.assert_allclose(terms["reconstruction"], expected, rtol=1e-6)
    np.testing.assert_allclose(terms["prior"], expected, rtol=1e-6)


def test_ancestral_step_is_the_published_one_bit_for_bit():
    """With the published Gumbel noise and one key for the whole batch, here one example."""
    process = Masked(vocab_size=27)
    z_t, logits = golden("step/zt")[None], golden("step/logits")[None]
    key = jax.random.fold_in(jax.random.wrap_key_data(golden("step/key")), 4)
    for grid, warp in [("uniform", lambda x: x), ("cosine", lambda x: np.cos(np.pi / 2 * (1 - x)))]:
        t, s = (jnp.array([warp(x)], jnp.float32) for x in (0.6, 0.5))
        z_s = joint_reverse_sample(process, key[None], z_t, logits, t, s, gumbel="low")
        np.testing.assert_array_equal(z_s[0], golden(f"step/ancestral/{grid}/T10_i4"))


def test_mean_step_draws_the_published_tokens():
    """The published step draws tokens with the same key; it splits the other one once more."""
    logits = golden("step/logits")
    token_key, _ = jax.random.split(
        jax.random.fold_in(jax.random.wrap_key_data(golden("step/key")), 4)
    )
    tokens = jax.random.categorical(token_key, logits)
    published = golden("step/mean/uniform/T10_i4")
    revealed = (golden("step/zt") == 27) & (published != 27)
    assert revealed.any()
    np.testing.assert_array_equal(tokens[revealed], published[revealed])


def test_decode_is_the_published_one():
    process = Masked(vocab_size=27)
    z = golden("step/zt")
    decoded = process.decode(lambda z, t: golden("step/logits"), z)
    np.testing.assert_array_equal(decoded, golden("step/decode"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_token_log_prob_value_and_gradient(dtype):
    key_logits, key_tokens, key_g = jax.random.split(jax.random.key(0), 3)
    logits = (20 * jax.random.normal(key_logits, (3, 5, 11))).astype(dtype)
    tokens = jax.random.randint(key_tokens, (3, 5), 0, 11)
    g = jax.random.normal(key_g, (3, 5))

    def plain(logits):
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        return jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]

    value, vjp = jax.vjp(lambda l: token_log_prob(l, tokens), logits)
    expected, plain_vjp = jax.vjp(plain, logits)
    # Up to 60 nats in float32; a bfloat16 gradient has 8 bits.
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-5)
    assert vjp(g)[0].dtype == logits.dtype
    tolerance = 1e-5 if dtype == "float32" else 2**-8
    np.testing.assert_allclose(
        vjp(g)[0].astype(jnp.float32),
        plain_vjp(g)[0].astype(jnp.float32),
        atol=tolerance,
        rtol=tolerance,
    )


def test_loss_makes_no_large_array_but_the_gradient():
    """At V = 50,257 the logits decide what fits: no one-hot, no log-softmax, no softmax kept.

    In float32: for bfloat16 XLA's CPU backend makes a float32 copy of its own for any reduction.
    """
    process = Masked(vocab_size=50257)
    shape = (2, 64)

    def loss(logits, x0, z_t, t):
        return process.bound_terms(keys_of(2), logits, x0, z_t, t)["diffusion"].sum()

    logits = jax.ShapeDtypeStruct((*shape, 50257), jnp.float32)
    ids = jax.ShapeDtypeStruct(shape, jnp.int32)
    t = jax.ShapeDtypeStruct(shape[:1], jnp.float32)
    compiled = jax.jit(jax.grad(loss)).lower(logits, ids, ids, t).compile()
    logits_bytes = 4 * math.prod(logits.shape)
    assert compiled.memory_analysis().temp_size_in_bytes < 0.01 * logits_bytes


def test_forward_keeps_tokens_with_probability_alpha():
    """(1), at 40,000 tokens an example: 5 standard errors, false alarm 3e-6 in all."""
    process = Masked(vocab_size=7)
    t = jnp.array([0.0, 1e-3, 0.3, 0.9, 1.0])
    x0 = jnp.full((5, 200, 200), 3)
    z_t = process.forward_sample(keys_of(5), x0, t)
    assert set(np.unique(z_t)) <= {3, 7}
    share = (z_t == 7).mean(axis=(1, 2))
    p = process.mask_probability(t)
    assert (jnp.abs(share - p) < 5 * jnp.sqrt(p * (1 - p) / 40_000)).all()


def zipf(vocab_size):
    """log of Zipf(1) in float64, its entropy, and the standard deviation of -log mu."""
    log_mu = -np.log(np.arange(1, vocab_size + 1.0))
    log_mu -= np.log(np.exp(log_mu).sum())
    mu = np.exp(log_mu)
    entropy = -(mu * log_mu).sum()
    return log_mu, entropy, math.sqrt((mu * log_mu**2).sum() - entropy**2)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("step", [Masked.reverse_sample, joint_reverse_sample])
def test_steps_are_exact_in_the_tail(step):
    """Zipf(1) over V = 50,257 at u(t, s) = 0.08: rate and entropy of the tokens drawn.

    n = 1,600 positions, about 128 unmaskings; 4.5 standard errors, false alarm 7e-6 each. (u = 1e-4
    would take 1e12 draws of noise for as many: the next test has it, with two tokens.)
    """
    vocab_size, positions, repeats = 50257, 64, 25
    process = Masked(vocab_size=vocab_size)
    log_mu, entropy, spread = zipf(vocab_size)
    log_mu = jnp.asarray(log_mu, jnp.float32)
    z_t = jnp.full((1, positions), vocab_size)
    logits = jnp.broadcast_to(log_mu, (1, positions, vocab_size))
    t, s = jnp.array([0.5]), jnp.array([0.46])

    @jax.jit
    def unmasked(key):
        z_s = step(process, key[None], z_t, logits, t, s)[0]
        return z_s != vocab_size, jnp.where(z_s < vocab_size, -log_mu[z_s], 0.0)

    events, nats = jax.lax.map(unmasked, keys_of(repeats))
    n, p = repeats * positions, float(process.unmask_probability(t, t - s)[0])
    assert abs(events.mean() - p) < 4.5 * math.sqrt(p / n)
    drawn = int(events.sum())
    assert abs(nats.sum() / drawn - entropy) < 4.5 * spread / math.sqrt(drawn)


@pytest.mark.usefixtures("optimized")
def test_unmasking_rate_at_one_in_ten_thousand():
    """4e7 positions at u(t, s) = 1e-4: 4,000 unmaskings, 4.5 standard errors, false alarm 7e-6.

    The rate does not depend on the tokens, which are drawn apart, so two of them do.
    """
    process = Masked(vocab_size=2)
    z_t = jnp.full((1, 1_000_000), 2)
    logits = jnp.zeros((1, 1_000_000, 2))
    t = jnp.array([0.5])
    s = t - 5e-5

    @jax.jit
    def unmasked(key):
        return (process.reverse_sample(key[None], z_t, logits, t, s) != 2).sum()

    n, p = 40e6, float(process.unmask_probability(t, t - s)[0])
    assert p == pytest.approx(1e-4, rel=2e-3)  # s is the float32 next to 0.49995.
    drawn = jax.lax.map(unmasked, keys_of(40)).sum()
    assert abs(drawn - n * p) < 4.5 * math.sqrt(n * p)


@pytest.mark.usefixtures("optimized")
def test_default_noise_is_what_the_joint_step_corrects():
    """The published truncation, kept for comparison: noise that ends at 23 log 2 = 15.94.

    Of 6e7 exact draws one is larger with a probability of 1 - exp(-6e7 2^-23) = 0.9992.
    """
    noise = lambda mode: lambda key: jax.random.gumbel(key, (2_000_000,), mode=mode).max()
    largest = {mode: jax.lax.map(noise(mode), keys_of(30)) for mode in ("low", "high")}
    end = -math.log(-math.log1p(-(2**-23)))
    assert largest["low"].max() <= end + 1e-5 < largest["high"].max()  # Rounding: 2^-20.
    process, logits = Masked(vocab_size=500), jnp.zeros((20, 200, 500))
    z_t, t, s = jnp.full((20, 200), 500), jnp.full(20, 0.9), jnp.full(20, 0.1)
    u = process.unmask_probability(t, t - s)[0]
    joint = jnp.append(jnp.full(500, jnp.log(u / 500)), jnp.log1p(-u))
    for mode in ("low", "high"):
        draw = functools.partial(jax.random.categorical, logits=joint, shape=(200,), mode=mode)
        ours = joint_reverse_sample(process, keys_of(20), z_t, logits, t, s, mode)
        # Rounding of the logits decides where two are within 1e-6 of each other: 1 in 1e5 draws.
        assert (ours == jax.vmap(draw)(keys_of(20))).mean() > 0.999


def test_time_is_quantised_in_discrete_time():
    process = Masked(num_timesteps=4)
    u = jnp.array([0.0, 0.2499, 0.25, 0.6, 0.99])
    np.testing.assert_allclose(process.time(u), [0.25, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_array_equal(Masked().time(u), u)


def test_network_spec():
    spec = DataSpec(shape=(4,), vocab_size=9, num_classes=3)
    asked = Masked(time_features="none").network_spec(spec)
    assert (asked.vocab_size, asked.out_features) == (10, 9)
    assert (asked.has_time, asked.num_classes) == (False, 3)


def test_a_power_without_a_polynomial_is_an_error():
    with pytest.raises(UserError, match="config.process.power"):
        Masked(schedule="linear", power=2.0)
    with pytest.raises(UserError, match="config.process.power"):
        Masked(schedule="polynomial")
