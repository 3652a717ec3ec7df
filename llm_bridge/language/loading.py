"""Models and tokenizers from folders or a hub, with answers to everything that can be wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import torch
import transformers
from huggingface_hub import constants as hub
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from llm_bridge.errors import ModelError, memory_advice
from llm_bridge.language.fingerprints import weights_hash
from llm_bridge.storage.records import FormerRecordError, read_record
from rlhf_theory.errors import check_choice
from rlhf_theory.store import DamagedError, Json

WRITTEN = "written.json"
"""The record of a folder that we have written: digests of its files. Others have none."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars and reports of transformers off the screen; errors still raise."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


class Loading(TypedDict, total=False):
    """How a model is loaded; what is left out has the default of `load_parts`.

    Attributes
    ----------
    revision
        That of an id on a hub.
    device, dtype
        Where the weights go, and as what: ``"float32"``, ``"bfloat16"`` or ``"float64"``.
    offline
        Never ask a hub; only folders and what was fetched before.
    pad_token
        Token to pad with, where the tokenizer has none or pads with the end of the sequence.
    """

    revision: str | None
    device: str
    dtype: str
    offline: bool
    pad_token: str | None


def load_parts(
    auto: Any,
    name: str | Path,
    *,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    offline: bool = False,
    pad_token: str | None = None,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return model (in evaluation mode) and tokenizer from a folder or a hub id.

    Parameters
    ----------
    auto
        The class that loads the model, such as ``AutoModelForCausalLM``.
    name
        Folder or id.
    revision, device, dtype, offline, pad_token
        See `Loading`.

    Raises
    ------
    ModelError
        If the folder is missing or holds no such model, weights are missing or damaged, or
        nothing can be had offline.
    MemoryError
        If the weights do not fit.
    """
    check_choice("dtype", dtype, DTYPES)
    where, is_folder = _locate(name, revision)
    if is_folder and (Path(where) / WRITTEN).is_file():
        written(Path(where) / WRITTEN)
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        message = f"device={device} needs a CUDA device; torch sees none. Take device='cpu'."
        raise ModelError(message)
    options = {"revision": revision, "local_files_only": offline or is_folder}
    room = memory_advice(
        str(name), advice=f"Load {name} with dtype='bfloat16', on another device, or a smaller one."
    )
    try:
        with quiet(), room:
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
            model, report = auto.from_pretrained(
                where,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
            model = model.to(device).eval()
    except MemoryError:
        raise
    # Anything can come out of a foreign folder: OSError, ValueError, KeyError, SafetensorError,
    # RuntimeError, ImportError of a tokenizer's library.
    except Exception as error:
        raise ModelError(_explain(name, is_folder, offline, error)) from error
    _check_complete(name, model, report)
    check_tokenizer(tokenizer, pad_token)
    return model, tokenizer


def _locate(name: str | Path, revision: str | None) -> tuple[str, bool]:
    """Return what to load and whether it is a folder; raise for a missing or foreign one."""
    path = Path(name).expanduser()
    as_path = isinstance(name, Path) or str(name).startswith((".", "/", "~"))
    is_folder = path.exists() or as_path or str(name).count("/") > 1
    if not is_folder:
        return str(name), False
    if not (path / "config.json").is_file():
        kind = "is a file" if path.is_file() else "holds no config.json"
        state = kind if path.exists() else "is missing"
        message = (
            "The model must be a folder written by save_pretrained, or the id of a model; "
            f"{name} {state}."
        )
        raise ModelError(message)
    if revision is not None:
        message = f"revision={revision} is of a model on a hub; {name} is a folder. Leave it out."
        raise ModelError(message)
    return str(path), True


def written(record: Path) -> Json:
    """Return what the record of a folder says; ``ModelError`` unless its files are as written."""
    try:
        return read_record(record)
    except DamagedError as error:
        known = f" If it was changed on purpose, remove {WRITTEN}." * (record.name == WRITTEN)
        message = f"{error}. Start again the run that wrote {record.parent}.{known}"
        raise ModelError(message) from error
    except FormerRecordError as error:
        raise ModelError(str(error)) from error


def _explain(name: str | Path, is_folder: bool, offline: bool, error: Exception) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
    if isinstance(error, KeyError):
        first = f"a file lacks the entry {first}"
    if is_folder:
        hint = "It must hold config.json, model.safetensors and the tokenizer's files, undamaged."
    elif offline or hub.HF_HUB_OFFLINE:
        first = "it is no folder here and was not fetched before, and the hub is not asked"
        hint = "Give a folder, or run once without --offline (HF_HUB_OFFLINE=0)."
    else:
        hint = "It is no folder here; where the hub cannot be reached, give a folder."
    return f"The model {name} cannot be loaded: {first}. {hint}"


def _check_complete(
    name: str | Path, model: PreTrainedModel, report: Mapping[str, Iterable[str]]
) -> None:
    """Raise ``ModelError`` where weights were made up because the files lack them."""
    # Of an encoder's pooler nothing is ever used.
    missing = sorted(k for k in report["missing_keys"] if "pooler" not in k)
    if missing:
        message = (
            f"The files of {name} must hold all weights of a {type(model).__name__}; "
            f"{len(missing)} are missing, such as {missing[0]}. It is another kind of model "
            f"({', '.join(model.config.architectures or ['unknown'])}), or damaged."
        )
        raise ModelError(message)


def check_causal(model: Any, name: str) -> None:
    """Raise ``ModelError`` unless the model predicts each token from those before it.

    Encoders and classifiers often load as causal models without complaint. Two texts that differ
    in the last token must agree on all earlier predictions.
    """
    heads = [a for a in model.config.architectures or [] if a.endswith("Classification")]
    if heads:
        message = f"{name} must be a causal language model; it is a {heads[0]}."
        raise ModelError(message)
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([[1, 1, 0], [1, 1, 1]], device=device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits.double()
    if not bool(torch.isfinite(logits).all()):
        message = f"The weights of {name} must be finite; its predictions are not. Train it anew."
        raise ModelError(message)
    seen = float((logits[0, :2] - logits[1, :2]).abs().max())
    # Equal up to rounding; where later tokens are seen, they move predictions visibly.
    if seen > 0.01 * float((logits - logits.mean()).abs().max()):
        message = (
            f"{name} must be a causal language model; its predictions depend on later tokens, as "
            "an encoder's do. Use it as a feature model instead."
        )
        raise ModelError(message)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, pad_token: str | None = None) -> None:
    """Make sure that there is a token to pad with, and that it does not end sequences.

    Parameters
    ----------
    tokenizer
        Its pad token is set where ``pad_token`` is given.
    pad_token
        A token of the vocabulary.

    Raises
    ------
    ModelError
        If there is none, or it is the end of the sequence: a padded row would look finished.
    """
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            message = f"pad_token must be a token of the vocabulary; got {pad_token!r}."
            raise ModelError(message)
        tokenizer.pad_token = pad_token
    advice = "Pass pad_token=..., a token that never occurs in texts (such as '<unk>')."
    if tokenizer.pad_token_id is None:
        message = f"The tokenizer must have a pad token; it has none. {advice}"
        raise ModelError(message)
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        message = (
            f"The tokenizer's pad token must differ from its end of sequence; both are "
            f"{tokenizer.eos_token!r}. {advice}"
        )
        raise ModelError(message)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model of transformers with its tokenizer.

    Attributes
    ----------
    model
        The model.
    tokenizer
        Its tokenizer, with a pad token other than the end of the sequence.
    name
        What to call it in messages and reports.
    """

    model: Any
    tokenizer: Any
    name: str = "model"

    def __post_init__(self) -> None:
        check_tokenizer(self.tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        return next(self.model.parameters()).dtype  # type: ignore[no-any-return]

    @property
    def pad_id(self) -> int:
        """Token that fills up rows."""
        return int(self.tokenizer.pad_token_id)

    @property
    def context_length(self) -> int | None:
        """Longest text in tokens, None where the configuration does not say."""
        config = self.model.config.get_text_config()
        length = getattr(config, "max_position_embeddings", None)
        return None if length is None else int(length)

    @property
    def about(self) -> dict[str, object]:
        """What numbers of this model depend on besides the texts, to the last bit; plain data."""
        return {
            "model": self.fingerprint,
            "dtype": str(self.dtype),
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "versions": [str(torch.__version__), transformers.__version__],
        }

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, configuration and tokenizer: equal for equal models, wherever saved."""
        return weights_hash(self.model, self.tokenizer)
