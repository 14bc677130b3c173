"""A small GPT of torch's own transformer layers."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["LanguageModel"]

VOCABULARY = 256  # bytes


class LanguageModel(nn.Module):
    """Logits of the next byte, float32 (batch, length, 256), for bytes int64 (batch, length)."""

    def __init__(self, *, length: int, width: int = 128, layers: int = 6, heads: int = 4) -> None:
        """Build the model; with the default sizes and a length of 128 it has 1.27 million parameters."""
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.places = nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.mask: Tensor
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length), persistent=False)
        self.apply(_initialize)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the byte after each byte."""
        length = tokens.shape[1]
        hidden = self.tokens(tokens) + self.places.weight[:length]
        logits: Tensor = self.head(self.layers(hidden, mask=self.mask[:length, :length], is_causal=True))
        return logits

    def loss(self, window: Tensor) -> Tensor:
        """Mean cross entropy in nats per byte of windows int64 (batch, length + 1)."""
        return nn.functional.cross_entropy(self(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())


def _initialize(module: nn.Module) -> None:
    """Small normal weights, as in GPT-2; torch copies one layer's initial values to all the others."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.MultiheadAttention):
        nn.init.normal_(module.in_proj_weight, std=0.02)
