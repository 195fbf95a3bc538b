"""What a user of the Python surface does wrong is said in one line."""

import functools

import numpy as np
import pytest
from interactive_tools import UVIT, built

import md4jax


class Small(md4jax.Masked):
    """A process of one's own, in no table."""


POINTS = np.zeros((4, 2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: md4jax.build(process=md4jax.Masked()), "network, data missing"),
        (lambda: built(proces=md4jax.Masked()), "proces = .*the sections are process"),
        (lambda: built(process=md4jax.Masked), "should be like md4jax.Gaussian.*it is a class"),
        (lambda: built(process=3), "process = 3 should be like .*it has no .*forward_sample"),
        (lambda: built(process=md4jax.Masked(eps=0.7)), "process.eps = 0.7 should be above 0"),
        (lambda: built(network=UVIT(spec=None)), "should be a class like md4jax.UViT"),
        (lambda: built(data="digits"), "data = 'digits' should be like md4jax.Digits"),
        (lambda: built(train=dict(steps=3)), "config.train.steps = 3: Train has no such field"),
        (lambda: built(sampler=md4jax.DDIM()), "Masked"),
        (lambda: md4jax.build("configs/digits/masked.py", {"feature_dim": 3}), "'section.key'"),
        (lambda: md4jax.build("configs/none.py"), "configs/none.py is no config file"),
        (lambda: built().sample(guidance=2.0), "guidance = 2.0: the model was trained without"),
        (lambda: built().sample(steps=3), "sampler.steps = 3: Ancestral has no such field"),
        (lambda: built().sample(sampler=md4jax.RemaskErrors()), "needs a model that tells"),
        (lambda: built().bound("valid"), "bound has 'valid': the data have train, test"),
        (lambda: built().bound(points=3), "bound: 'points' should be one of time_points"),
        (lambda: built().bound(splits=("train",)), "bound: 'splits' should be one of time_points"),
        (lambda: built().fit(2.0), "num_steps = 2.0 should be an integer"),
        (lambda: built().fit(0), "num_steps = 0 should be an integer, at least 1"),
        (lambda: built().sample(2, "mean"), "sampler = 'mean' should be like md4jax.Ancestral"),
        (lambda: built().sample(2, md4jax.Mean), "it is a class"),
        (lambda: built().film(kinds="film"), "kinds = 'film' should be of 'film', 'forward'"),
        (lambda: built().draw({}), "nothing to draw"),
        (lambda: built().draw(np.zeros((2, 8, 8), int)), r"should be \[n, 8, 8, 1\], and is"),
        (lambda: built().draw(np.zeros((2, 8, 8, 1))), r"integers in \[0, 17\), and is float64"),
        (lambda: built().draw({"a": np.full((2, 8, 8, 1), 17)}), "a should be in .* from 17 to 17"),
        (lambda: built().draw(np.zeros((2, 8, 8, 1), int), ["a"]), "there are 1, and 2 samples"),
        (lambda: md4jax.draw_losses([]), "there are no losses"),
        (lambda: built().finetuning(md4jax.MMD), "finetune = .* it is a class"),
        (lambda: built().finetuning(md4jax.Remasker(), data=md4jax.Digits()), "data was given"),
        (lambda: built().finetuning(md4jax.Remasker(), trian={}), "trian = {}: the sections are"),
        (
            lambda: built(data=md4jax.Digits(labels=True)).finetuning(
                md4jax.Remasker(), train=dict(label_dropout=0.1)
            ),
            "label_dropout = 0.1: the model was trained with 0",
        ),
        (lambda: built(network=functools.partial(UVIT, depth=2)), "depth = 2: UViT has no such"),
        (lambda: built(network=functools.partial(md4jax.MLP, 8)), "give options by name, not"),
        (lambda: md4jax.dataset(None, levels=2), "train = None should be an array"),
        (lambda: md4jax.dataset([[0], [0, 1]], levels=2), "train should be one array"),
        (lambda: md4jax.dataset(POINTS.astype(int), levels=1), "levels = 1 should be an integer"),
        (
            lambda: md4jax.dataset(np.zeros((2, 3, 3), int), levels=2, test_labels=[0, 0]),
            "train_labels and test_labels go together",
        ),
        (lambda: built(process=Small()).save("/tmp/md4jax/none"), "'Small' should be one of"),
        (lambda: built(optimizer=md4jax.AdamW()).fit(1001), "falls to 0 there"),
        (lambda: md4jax.dataset(POINTS), "either levels, for integers, or domain"),
        (lambda: md4jax.dataset(POINTS, domain="shpere"), "'shpere' should be one of simplex"),
        (lambda: md4jax.dataset(POINTS, domain="sphere"), "train is not of the domain"),
        (lambda: md4jax.dataset(POINTS, levels=2), r"should be \[N, length\] integers"),
        (lambda: md4jax.dataset(POINTS.astype(int) + 2, levels=2), "ids from 2 to 2"),
        (lambda: md4jax.dataset(np.full((2, 3, 3), 9), levels=9), "levels = 9 asks for 0 to 8"),
        (lambda: md4jax.dataset(POINTS, domain="real", train_labels=[0] * 4), "only images"),
        (
            lambda: md4jax.dataset(*[np.zeros((2, 3, 3), int)] * 2, levels=2, train_labels=[0, 0]),
            "train_labels and test_labels go together",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(make, words):
    with pytest.raises(md4jax.UserError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
