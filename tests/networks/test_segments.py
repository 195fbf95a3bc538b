"""Attention within documents: a row of several gives what each of them gives alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import md4jax
from md4jax.data.packing import segments
from md4jax.networks import NETWORKS
from md4jax.networks.attention import apply_rotary, attend, positions_in_segments
from md4jax.options import UserError
from md4jax.processes.base import NetworkSpec

SEGMENT = jnp.array([[0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0]])


def make(**options):
    """A small transformer, and inputs for it."""
    spec = NetworkSpec(shape=(6,), vocab_size=6, out_features=5)
    net = NETWORKS["transformer"](spec=spec, feature_dim=4, num_layers=2, num_heads=2, **options)
    z_t = jax.random.randint(jax.random.key(2), (2, 6), 0, 6)
    return net, (z_t, jnp.array([0.1, 0.9]))


def shaken_params(net, inputs):
    """Random weights: a fresh network predicts zeros."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs)["params"])
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    draw = lambda key, x: 0.3 * jax.random.normal(key, x.shape)
    return jax.tree.unflatten(tree, [draw(k, x) for k, x in zip(keys, leaves)])


def test_places_start_anew_in_each_document():
    assert positions_in_segments(SEGMENT).tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]
    x = jax.random.normal(jax.random.key(0), (2, 6, 1, 4))
    turned = apply_rotary(x, positions_in_segments(SEGMENT))
    np.testing.assert_array_equal(turned[0, 2:5], apply_rotary(x[:1, 2:5])[0])
    np.testing.assert_array_equal(turned[1], apply_rotary(x)[1])


@pytest.mark.parametrize("options", [{}, {"scan_layers": True, "remat": True}])
def test_a_document_does_not_see_its_neighbours(options):
    """The output for a document in a row is that of the document in a row of its own."""
    net, (z_t, t) = make(**options)
    params = shaken_params(net, (z_t, t))
    apply = jax.jit(lambda z, s: net.apply({"params": params}, z, t, segment=s))
    packed = apply(z_t, SEGMENT)
    whole = apply(z_t, jnp.zeros_like(SEGMENT))
    np.testing.assert_allclose(packed[1], whole[1], rtol=1e-5, atol=1e-5)
    assert np.abs(packed[0] - whole[0]).max() > 1e-3
    # The middle document alone: at the start of a row, with anything after it.
    moved = z_t.at[0, :3].set(z_t[0, 2:5])
    alone = apply(moved, jnp.array([[0, 0, 0, 1, 1, 1]] * 2))
    np.testing.assert_allclose(packed[0, 2:5], alone[0, :3], rtol=1e-5, atol=1e-5)


def test_without_segments_nothing_changes():
    net, inputs = make()
    params = shaken_params(net, inputs)
    one = net.apply({"params": params}, *inputs)
    np.testing.assert_array_equal(one, net.apply({"params": params}, *inputs, segment=None))


def test_dropout_keeps_to_the_mask():
    """The path that drops probabilities masks as the other does: at rate almost 0 they agree."""
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 6, 1, 4))
    mask = (SEGMENT[:, :, None] == SEGMENT[:, None, :])[:, None]
    dropped = attend(q, k, v, "xla", 1e-9, jax.random.key(0), mask)
    np.testing.assert_allclose(dropped, attend(q, k, v, mask=mask), rtol=2e-5, atol=2e-6)


def test_an_end_belongs_to_what_it_ends():
    rows = np.array([[5, 6, 9, 7, 9, 9], [1, 2, 3, 4, 5, 6]])
    assert segments(rows, 9).tolist() == [[0, 0, 0, 1, 1, 2], [0] * 6]


def test_networks_that_cannot():
    assert [name for name in NETWORKS if NETWORKS[name].takes_segments] == ["transformer"]


def test_documents_in_a_config(tmp_path):
    """Trained, evaluated and sampled with documents; refused by a network that cannot."""
    from md4jax.data.prepare.documents import Documents
    from md4jax.data.prepare.run import prepare

    (tmp_path / "texts.txt").write_text("<|endoftext|>".join(["one", "the second", "a third"] * 20))
    recipe = Documents(tokenizer="bytes", test_every=3, row_length=16)
    prepare(recipe, "documents", tmp_path, str(tmp_path / "texts.txt"), "texts", 1)
    data = dict(name="tokens", dataset="texts", data_dir=str(tmp_path), tokenizer="bytes",
                length=16, documents=True)  # fmt: skip
    sections = dict(
        process=dict(name="masked"),
        network=dict(name="transformer", feature_dim=8, num_layers=1, num_heads=2),
        data=data,
        sampler=dict(name="ancestral", num_steps=2, num_samples=2, batch_size=2),
        optimizer=dict(name="adamw", learning_rate=1e-3),
        train=dict(num_steps=2, batch_size=4, microbatches=2),
        eval=dict(batch_size=4, time_points=2),
    )
    result = md4jax.train(md4jax.make_config(**sections), tmp_path / "run")
    assert any(np.isfinite(v) for v in result.values() if isinstance(v, float))
    other = dict(name="t5_encoder", feature_dim=8, num_layers=1, num_heads=2)
    with pytest.raises(UserError, match="documents = True: T5Encoder attends to whole rows"):
        md4jax.train(md4jax.make_config(**sections | {"network": other}), tmp_path / "other")
