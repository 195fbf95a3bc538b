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

import functools
import importlib.util
import pathlib
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from md4jax.evaluation.metrics.base import Metric, Setting, Texts
from md4jax.options import UserError

CHUNK = 1024  # Tokens of the scorer.


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


class PretrainedScorer:
    """A causal language model of `transformers`, on the CPU or the GPU that torch finds."""

    def __init__(self, folder: str):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        self._model = model.to(self._device).eval()
        self.end = self._tokenizer.eos_token_id

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
        torch = self._torch
        given = torch.as_tensor(ids, dtype=torch.long, device=self._device)[None]
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
        folder = setting.options.scorer
        if folder is None or not (pathlib.Path(folder) / "config.json").is_file():
            raise UserError(
                f"{key}: config.eval.scorer = {folder!r} should be a folder with a language model, "
                "as save_pretrained of transformers leaves it"
            )

    @functools.cached_property
    def _scorer(self) -> Scorer:
        return PretrainedScorer(self.setting.options.scorer)


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
