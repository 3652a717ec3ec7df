"""How models are loaded, as plain settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_bridge.language.loading import Loading


@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """How models are loaded.

    Attributes
    ----------
    revision
        Revision of an id on the hub.
    device
        Where models compute: cpu or cuda[:N].
    dtype
        Precision of the weights: float32, bfloat16 or float64.
    offline
        Never ask a hub: folders, and what was fetched before.
    pad_token
        Token to pad with, where the tokenizer has none or pads with its end.
    """

    revision: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    offline: bool = False
    pad_token: str | None = None

    def loading(self) -> Loading:
        """Return them as keyword arguments of those who load models."""
        return {
            "revision": self.revision,
            "device": self.device,
            "dtype": self.dtype,
            "offline": self.offline,
            "pad_token": self.pad_token,
        }
