"""Networks that have golden outputs and are not in `tests/networks/test_gaussian_unets.py`."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import GOLDEN, check_output, converted, flax_rule, parameters

from md4jax.convert import star_shaped, vdm
from md4jax.networks import NETWORKS
from md4jax.options import UserError
from md4jax.processes.base import DataSpec, NetworkSpec
from md4jax.processes.vdm import VDM

NCSNPP = {"feature_dim": 8, "num_layers": 2, "ch_mult": (1, 2), "attention_levels": (2,)}
NCSNPP |= {"norm_groups": 8}
UNET = {"feature_dim": 32, "num_layers": 2, "fourier_features": (6, 7)}
UNET |= {"wide_conditioning": True, "add_input": True}


def compiled(function):
    """`jax.jit` for programs that run once: half the time to compile, the same result."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def check(net, x, t, origins, arrays, reference, separator="."):
    net.check()
    x, t = jnp.asarray(x), jnp.asarray(t)
    like = jax.eval_shape(net.init, jax.random.key(0), x, t)["params"]
    params = converted(origins, like, arrays, separator)
    check_output(compiled(lambda p: net.apply({"params": p}, x, t)[..., 0]), params, reference)


def test_ncsnpp():
    golden = np.load(GOLDEN / "star_networks.npz")
    net = NETWORKS["ncsnpp"](spec=NetworkSpec((8, 8, 3), None, 1), **NCSNPP)
    last = lambda x: x.transpose(0, 2, 3, 1)
    x, t = last(golden["ncsnpp/in/x"]), golden["ncsnpp/in/t"] / np.float32(1000)
    arrays = parameters(golden["ncsnpp/param_names"])
    origins = star_shaped.ncsnpp_origins(net)
    check(net, x, t, origins, arrays, last(golden["ncsnpp/out"]))


def test_encoder():
    """With the tokens in another order than there, in and out."""
    golden = np.load(GOLDEN / "star_networks.npz")
    net = NETWORKS["t5_encoder"](
        spec=NetworkSpec((40, 27), None, 1), feature_dim=4, num_layers=2, num_heads=4
    )
    order = np.random.default_rng(0).permutation(27)
    x, reference = golden["t5_encoder/in/x"][..., order], golden["t5_encoder/out"][..., order]
    arrays = parameters(golden["t5_encoder/param_names"])
    del arrays["t5_encoder.embed_tokens.weight"]
    origins = star_shaped.t5_origins(net, lambda x: x[order], lambda x: x[..., order])
    t = golden["t5_encoder/in/t"] / np.float32(1000)
    check(net, x, t, origins, arrays, reference)


def test_vdm():
    """Network, schedule, levels and prior."""
    golden = np.load(GOLDEN / "vdm_network.npz")
    arrays = parameters(golden["vdm/param_names"], flax_rule)
    schedule = {name: arrays.pop(f"gamma/{name}")[0] for name in ("w", "b")}
    process = VDM(schedule="learned_linear", centre_levels=True, clip="none")
    process = process.bind(DataSpec((8, 8, 3), 256)).with_params(schedule)
    net = NETWORKS["unet"](spec=process.network_spec(DataSpec((8, 8, 3), 256)), **UNET)
    t = jnp.asarray(golden["vdm/in/t"])
    np.testing.assert_allclose(process.gamma(t), golden["vdm/gamma"], rtol=1e-6)
    x = jnp.asarray(golden["vdm/in/x"], jnp.int32)
    x0 = process.scale.to_x0(x)
    np.testing.assert_array_equal(x0, golden["vdm/x0"])
    np.testing.assert_array_equal(process.scale.to_values(x0), x)
    np.testing.assert_array_equal(process.scale.to_values(x0 + 0.99 / 256), x)
    # Each of 192 terms is what is left of numbers near 1, there rounded by up to 2^-24 each.
    np.testing.assert_allclose(process.prior_kl(x), golden["vdm/prior"], atol=192 * 2.0**-24)
    inputs = golden["vdm/in/z"], process.network_time(t)
    check(net, *inputs, vdm.origins(net), arrays, golden["vdm/out"], separator="/")


@pytest.mark.parametrize("channels,waves", [(3, 2), (1, 3), (2, 0)])
def test_order_of_waves(channels, waves):
    """By the names of the inputs."""
    there = [("z", c) for c in range(channels)]
    here = list(there)
    for wave in ("sin", "cos"):
        there += [(wave, c, k) for c, k in itertools.product(range(channels), range(waves))]
        here += [(wave, c, k) for k, c in itertools.product(range(waves), range(channels))]
    number = np.broadcast_to(np.arange(len(there))[:, None], (3, 3, len(there), 1))
    order = vdm.waves_first(channels, waves)(number)[0, 0, :, 0]
    assert [there[i] for i in order] == here


@pytest.mark.parametrize("spec", [{"vocab_size": 4}, {"out_features": 2}])
def test_input_is_added_to_real_numbers_alone(spec):
    spec = dataclasses.replace(NetworkSpec((8, 8, 3), None, 1), **spec)
    options = {k: v for k, v in UNET.items() if k != "fourier_features"}
    with pytest.raises(UserError, match=r"^config\.network\.add_input = True should be False"):
        NETWORKS["unet"](spec=spec, **options).check()
