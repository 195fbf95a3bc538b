"""Star-shaped families and choices that no shipped config has, through all that is done with one.

The shipped ones are walked by `test_every_path.py`.
"""

import numpy as np
import pytest
import tiny
from star_families import FAMILIES, examples
from walking import walk

import md4jax
from md4jax.config import load_config, make_config
from md4jax.options import UserError

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

POINTS = {name: spec for name, (spec, _, _) in FAMILIES.items() if spec.domain}
OPTIONS = {
    "star_dirichlet": {"exact_terms": 2},
    "star_von_mises": {"loss": "rescaled"},
    "star_von_mises_fisher": {"tail": "exact", "loss": "rescaled"},
    "star_wishart": {"tail": "draws"},
}


@pytest.mark.parametrize("name", sorted(POINTS))
def test_families_on_points_of_your_own(name, tmp_path):
    """A film, whole paths weighed, steps with both end points."""
    file = tmp_path / "points.npz"
    np.savez(file, train=examples(name, 40), test=examples(name, 12, seed=1))
    config = make_config(
        process=dict(name=name, num_timesteps=6, **OPTIONS.get(name, {})),
        network=dict(name="mlp", feature_dim=16, num_layers=1),
        data=dict(name="manifold_npz", path=str(file), domain=POINTS[name].domain),
        sampler=dict(name="ancestral", grid="endpoints", frames=3),
        optimizer=dict(name="adamw"),
        train=dict(num_steps=4, batch_size=4),
        eval=dict(path_samples=2),
    )
    walk(tiny.tiny(config), tmp_path / "run")


CHOICES = {
    "exact tails of Betas, plain KL, an even prior, paths, a film": (
        "configs/digits/beta.py",
        dict(
            process__tail="exact",
            process__loss="rescaled",
            process__prediction="levels",
            process__schedule="closed_form",
            process__level_prior="uniform",
            sampler__frames=2,
            eval__path_samples=2,
        ),
    ),
    "tokens by all T draws, another schedule, stacked layers, paths, a film": (
        "configs/star_shaped/text8_categorical.py",
        dict(
            process__tail="draws",
            process__schedule="closed_form",
            process__prediction="posterior",
            network__scan_layers=True,
            sampler__frames=2,
            eval__path_samples=1,
        ),
    ),
    "guided classes of star-shaped Betas": (
        "configs/digits/beta.py",
        dict(data__labels=True, train__label_dropout=0.5, sampler__guidance=2.0),
    ),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_choice(choice, tmp_path):
    path, values = CHOICES[choice]
    config = tiny.override(tiny.tiny(load_config(tiny.ROOT / path)), **values)
    walk(tiny.with_data(config, tmp_path), tmp_path / "run")


BAD_POINTS = {
    "simplex": ([[0.5, 0.5, 0.5]], "sums to"),
    "spd": ([[[1.0, 2.0], [2.0, 1.0]]], "not positive definite"),
    "sphere": ([[0.9, 0.0, 0.0]], "norm"),
    "interval": ([[1.2]], "outside [0, 1]"),
}


@pytest.mark.parametrize("domain", sorted(BAD_POINTS))
def test_data_off_the_domain_are_one_line(domain, tmp_path):
    points, words = BAD_POINTS[domain]
    file = tmp_path / "points.npz"
    np.savez(file, train=np.asarray(points, np.float32))
    config = load_config(tiny.ROOT / "configs/star_shaped/simplex_dirichlet.py").to_dict()
    config["data"] = dict(name="manifold_npz", path=str(file), domain=domain)
    with pytest.raises(UserError) as error:
        md4jax.train(make_config(**config), tmp_path / "run")
    message = str(error.value)
    assert words in message and "points.npz" in message and "\n" not in message
    assert not (tmp_path / "run").exists()


def test_paths_are_weighed_of_stars_only(tmp_path):
    config = tiny.tiny(load_config(tiny.ROOT / "configs/digits/masked.py"))
    with pytest.raises(UserError, match="config.eval.path_samples = 2"):
        md4jax.train(tiny.override(config, eval__path_samples=2), tmp_path)
