"""The sections of a config that are no choice of a component: training, evaluation, devices."""

from __future__ import annotations

import dataclasses

from md4jax.evaluation.features import FEATURES
from md4jax.evaluation.metrics import METRICS
from md4jax.options import UserError, option
from md4jax.time_sampling import TIME_SAMPLING


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """How long to train, on how much at once, and what happens how often."""

    num_steps: int = option("Optimizer steps.", at_least=1, changeable=True)
    batch_size: int = option("Examples a step over all devices and hosts.", at_least=1)
    microbatches: int = option(
        "Gradients of this many parts of a batch are averaged.", 1, at_least=1
    )
    seed: int = option("Fixes initialisation, data order and noise.", 0, at_least=0)
    time_sampling: str = option(
        "How times are drawn in training.", "antithetic", one_of=tuple(TIME_SAMPLING)
    )
    label_dropout: float = option(
        "Share of the examples trained without their class, for guidance.", 0.0, at_least=0, below=1
    )
    random_flip: bool = option(
        "Mirror each image left to right with probability 1/2, anew each time it is seen.", False
    )
    random_crop: int = option(
        "Move each image by up to so many pixels each way, edges repeated, anew each time.",
        0,
        at_least=0,
    )
    data_workers: int = option(
        "Processes that read the batches ahead, where unpacking images is slow; 0 is a thread.",
        0,
        at_least=0,
        changeable=True,
    )
    ema_decay: float = option(
        "Of the averaged parameters that evaluation and sampling use; 0 is no averaging.",
        0.9999,
        at_least=0,
        below=1,
    )
    ema_warmup: bool = option("Use min(ema_decay, (1 + n) / (10 + n)) at step n.", False)
    log_every: int = option("Steps a logged line; metrics are means over them.", 100, at_least=1)
    eval_every: int = option(
        "Steps between evaluations; 0 is only after the last.", 0, at_least=0, changeable=True
    )
    sample_every: int = option(
        "Steps between sample grids; 0 is only after the last.", 0, at_least=0, changeable=True
    )
    checkpoint_every: int = option("Steps between checkpoints.", 1000, at_least=1, changeable=True)
    checkpoints_to_keep: int = option("Newest checkpoints kept.", 3, at_least=1, changeable=True)
    checkpoint_keep_period: int | None = option(
        "Checkpoints of steps this divides are kept forever.", None, at_least=1, changeable=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
    """How the likelihood bound is estimated, and what is measured of samples."""

    splits: tuple[str, ...] = option(
        "Data splits whose bound is estimated; () is none.", ("test",), changeable=True
    )
    batch_size: int = option(
        "Examples evaluated together; changes no number.", 256, at_least=1, changeable=True
    )
    time_points: int = option(
        "Network calls an example: two independent sets of half as many stratified times.",
        16,
        at_least=2,
        changeable=True,
    )
    num_examples: int | None = option(
        "Only the first so many examples of a split; None is all.", None, at_least=1,
        changeable=True,
    )  # fmt: skip
    seed: int = option("Of times and noise.", 0, at_least=0, changeable=True)
    path_samples: int | None = option(
        "Also the importance-weighted bound of so many whole paths an example, T network calls "
        "each; for star-shaped processes. None is no such bound.",
        None,
        at_least=1,
        changeable=True,
    )
    texts: tuple[str, ...] = option(
        "UTF-8 files whose bound is estimated too, in the ids of the model's own data: zero-shot "
        "perplexity. Of text data only.", (), changeable=True,
    )  # fmt: skip
    table: bool = option(
        "With --mode=evaluate: a table of the bound by every estimator the process has, and the "
        "bound at each time as a curve; of num_examples examples, else of batch_size.",
        False, changeable=True,
    )  # fmt: skip
    metrics: tuple[str, ...] = option(
        "What is measured of config.sampler.num_samples samples; () is nothing.", (),
        one_of=tuple(METRICS), changeable=True,
    )  # fmt: skip
    features: str = option(
        "What images are measured by.", "pixels", one_of=tuple(FEATURES), changeable=True
    )
    weights: str | None = option(
        "File of the features' weights, if they have any.", None, changeable=True
    )
    reference: str = option(
        "What samples are compared with: a split, or for images a file metrics/reference_*.npz.",
        "train", changeable=True,
    )  # fmt: skip
    reference_examples: int | None = option(
        "How many of the split's examples, evenly spaced; None is as many as samples (if there "
        "are), 0 is all.", None, at_least=0, changeable=True,
    )  # fmt: skip
    scorer: str | None = option(
        "Folder of the language model that reads texts, for generative_perplexity and mauve.",
        None, changeable=True,
    )  # fmt: skip

    def __post_init__(self):
        if self.time_points % 2:
            raise UserError(f"config.eval.time_points = {self.time_points} should be even")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """How devices are laid out: data x fsdp x tensor; -1 takes what is left."""

    data: int = option("Copies of the model, each with its share of the batch.", -1, at_least=-1,
                       changeable=True)  # fmt: skip
    fsdp: int = option("Devices a copy's parameters are spread over; also shares the batch.", 1,
                       at_least=1, changeable=True)  # fmt: skip
    tensor: int = option("Devices a layer's width is spread over.", 1, at_least=1, changeable=True)
