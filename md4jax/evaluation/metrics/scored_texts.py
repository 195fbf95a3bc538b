r"""Metrics of texts by a language model, which reads them as words.

Generative perplexity, by the rule of the published codes of masked models (S. S. Sahoo et al.,
arXiv:2406.07524): a sample is decoded, cut into the scorer's own tokens and these into chunks of
1,024; with N the number of tokens scored,

  (1)  exp(-1 / N sum log p(token | those before it in its chunk))

The first token of a chunk has none before it and is not scored; of end-of-text tokens only the
first of a chunk is. Low values alone say little: a text that repeats itself has them too, so look
at its entropy.

MAUVE (K. Pillutla et al., arXiv:2102.01454), as `mauve-text` computes it with its own settings,
compares samples and data by the model's last hidden state at the last token of each text, cut after
1,024; 1 is best.

Both load the model of `config.eval.scorer`, a folder as `save_pretrained` of `transformers` leaves
it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import pathlib
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from md4jax.evaluation.metrics.base import Metric, Setting, Texts
from md4jax.hosts import one_line
from md4jax.options import UserError

CHUNK = 1024  # Tokens of the scorer.
TAIL = 2**20  # Bytes at the end of a file of weights, by which models are told apart.


@runtime_checkable
class Scorer(Protocol):
    """A language model of texts.

    Attributes:
      end: the id of its end-of-text token.
    """

    end: int

    def encode(self, text: str) -> list[int]:
        """The ids of a text, nothing added."""

    def log_probs(self, ids: Int[np.ndarray, "l"]) -> Float[np.ndarray, "l-1"]:
        """log p(ids[i] | ids[:i]) for i from 1 on, nats."""

    def feature(self, ids: Int[np.ndarray, "l"]) -> Float[np.ndarray, "d"]:
        """The last hidden state at the last token."""


def generative_perplexity(texts: list[str], scorer: Scorer) -> tuple[float, int]:
    """(1) and N; NaN if no text has two tokens."""
    total, count = 0.0, 0
    for text in texts:
        ids = np.asarray(scorer.encode(text), np.int32)
        for start in range(0, len(ids) - 1, CHUNK):
            chunk = ids[start : start + CHUNK]
            if len(chunk) < 2:
                continue
            ends = chunk == scorer.end
            scored = (~ends | (np.cumsum(ends) == 1))[1:]
            total -= float(np.asarray(scorer.log_probs(chunk), np.float64)[scored].sum())
            count += int(scored.sum())
    return (float(np.exp(total / count)) if count else float("nan")), count


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a model's weights."""
    return sorted(f for kind in ("*.safetensors", "pytorch_model*.bin") for f in folder.glob(kind))


def fingerprint(folder: pathlib.Path) -> str:
    """A short sha256 of a model's config and of the ends of its weights' files."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in weight_files(folder):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            digest.update(file.read())
    return digest.hexdigest()[:16]


class PretrainedScorer:
    """A causal language model of `transformers`, on the CPU or the GPU that torch finds."""

    def __init__(self, folder: str):
        """Loads the tokenizer; the weights only when they are needed.

        Raises:
          UserError: the files are not there, are no causal language model, or it is one that reads
            too short texts, or has no end-of-text token.
        """
        self._folder, path = folder, pathlib.Path(folder)
        if not ((path / "config.json").is_file() and weight_files(path)):
            raise UserError(
                f"config.eval.scorer = {folder!r} should be a folder with a language model, "
                "as save_pretrained of transformers leaves it: config.json, a tokenizer and weights"
            )
        with self._loading():
            import torch
            from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            with torch.device("meta"):  # Of no memory: whether it is a causal language model.
                AutoModelForCausalLM.from_config(config)
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        longest = getattr(config, "max_position_embeddings", None)  # Some have no limit.
        if longest is not None and longest < CHUNK:
            raise UserError(
                f"config.eval.scorer = {folder!r} reads {longest} tokens at once; it should be a "
                f"model of at least {CHUNK}"
            )
        self.end = self._tokenizer.eos_token_id
        if self.end is None:
            raise UserError(
                f"config.eval.scorer = {folder!r} should be a model with an end-of-text token; its "
                "tokenizer has none"
            )

    @contextlib.contextmanager
    def _loading(self) -> Iterator[None]:
        """Raises UserError for what the library finds wrong, in any of its ways."""
        try:
            yield
        except Exception as error:
            raise UserError(
                f"config.eval.scorer = {self._folder!r} cannot be loaded as a causal language "
                f"model of transformers ({one_line(error)})"
            ) from error

    @functools.cached_property
    def _model(self):
        import torch
        from transformers import AutoModelForCausalLM

        with self._loading():
            model = AutoModelForCausalLM.from_pretrained(self._folder, local_files_only=True)
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def encode(self, text: str) -> list[int]:
        """See `Scorer`."""
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def log_probs(self, ids: Int[np.ndarray, "l"]) -> Float[np.ndarray, "l-1"]:
        """See `Scorer`."""
        output, given = self._run(ids)
        logs = output.logits[0, :-1].float().log_softmax(-1)
        return logs.gather(1, given[0, 1:, None])[:, 0].cpu().numpy()

    def feature(self, ids: Int[np.ndarray, "l"]) -> Float[np.ndarray, "d"]:
        """See `Scorer`."""
        return self._run(ids)[0].hidden_states[-1][0, -1].float().cpu().numpy()

    def _run(self, ids):
        import torch

        given = torch.as_tensor(ids, dtype=torch.long, device=self._model.device)[None]
        with torch.inference_mode():
            return self._model(given, output_hidden_states=True), given


class Scored(Metric):
    """What needs words, libraries and a language model."""

    kind = Texts
    name: str
    libraries: tuple[str, ...]

    def __init__(self, setting: Setting):
        super().__init__(setting)
        key = f"config.eval.metrics has {self.name!r}"
        if setting.dataset.to_text is None:
            raise UserError(f"{key}: nobody knows the words of these ids; use a metric of ids")
        missing = [name for name in self.libraries if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(
                f"{key}: {' and '.join(missing)} not found; pip install 'md4jax[scored_texts]'"
            )
        given = setting.options.scorer
        if given is None:
            raise UserError(f"{key}: config.eval.scorer = None should be a language model's folder")
        self._scorer: Scorer = PretrainedScorer(given)
        folder = pathlib.Path(given).resolve()
        self.words = {"scorer": folder.name, "scorer_weights": fingerprint(folder)}


class GenerativePerplexity(Scored):
    """(1), and how many tokens it is of."""

    name = "generative_perplexity"
    libraries = ("torch", "transformers")
    uses_reference = False

    def __call__(self, samples: Texts, reference: Texts | None) -> dict[str, float]:
        value, count = generative_perplexity(samples.words(), self._scorer)
        return {"generative_perplexity": value, "generative_perplexity_tokens": count}


class Mauve(Scored):
    """MAUVE of samples and reference."""

    name = "mauve"
    libraries = ("torch", "transformers", "mauve")

    def __call__(self, samples: Texts, reference: Texts) -> dict[str, float]:
        import mauve

        data, ours = (text_features(x.words(), self._scorer) for x in (reference, samples))
        result = mauve.compute_mauve(p_features=data, q_features=ours, verbose=False)
        return {"mauve": float(result.mauve)}


def text_features(texts: list[str], scorer: Scorer) -> Float[np.ndarray, "n d"]:
    """What MAUVE compares; of an empty text that of the end-of-text token."""
    ids = (scorer.encode(text)[:CHUNK] or [scorer.end] for text in texts)
    return np.stack([scorer.feature(np.asarray(x, np.int32)) for x in ids])
