"""CLIPSeg by Hugging Face transformers, used as OV-PARTS does: one image tower pass, a decoder row per query."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from ovparts_lib.models.clip.text import tokenize
from ovparts_lib.vocabularies import PartVocabulary

START, END, CONTEXT = 49406, 49407, 77
TRAINED = ("text_model.embeddings", "film", "visual_adapter", "decoder")


class PeerClipseg(nn.Module):
    """``CLIPSegForImageSegmentation`` with OV-PARTS' visual adapter and background query around it.

    Args:
        full_context: encode prompts at 77 tokens (the released code) instead of at the longest prompt's length.
    """

    def __init__(self, full_context: bool):
        super().__init__()
        text = {"eos_token_id": END, "bos_token_id": START, "pad_token_id": END}
        config = CLIPSegConfig(
            text_config=text,
            vision_config={"image_size": 224, "patch_size": 16},
            use_complex_transposed_convolution=True,
            extract_layers=[3, 6, 9],
            reduce_dim=64,
        )
        self.clipseg_model = CLIPSegForImageSegmentation(config)
        width = config.vision_config.hidden_size
        self.clipseg_model.visual_adapter = nn.Module()
        self.clipseg_model.visual_adapter.fc = nn.Sequential(
            nn.Linear(width, width // 4, bias=False), nn.ReLU(), nn.Linear(width // 4, width, bias=False), nn.ReLU()
        )
        self.clipseg_model.non_object_embedding = nn.Parameter(torch.empty(1, config.projection_dim))
        self.full_context = full_context
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(any(part in name for part in TRAINED))

    def tokens(self, vocabulary: PartVocabulary, device: torch.device) -> dict[str, Tensor]:
        """Token ids padded with the end token, as the hub's tokenizer pads, and the mask of real tokens."""
        short = tokenize(vocabulary.prompts)
        length = CONTEXT if self.full_context else short.shape[1]
        ids = torch.full((len(short), length), END)
        ends = (short == END).int().argmax(dim=1, keepdim=True)
        real = torch.arange(length)[None] <= ends
        ids[:, : short.shape[1]] = torch.where(real[:, : short.shape[1]], short, END)
        return {"input_ids": ids.to(device), "attention_mask": real.long().to(device)}

    def logits(self, pixels: Tensor, vocabulary: PartVocabulary) -> Tensor:
        """(b, 3, s, s) normalised pixels -> (b, n + 1, s, s) logits, background last."""
        inner = self.clipseg_model
        tokens = self.tokens(vocabulary, pixels.device)
        conditions = inner.clip.get_text_features(**tokens).pooler_output
        conditions = torch.cat([conditions, inner.non_object_embedding])
        states = inner.clip.vision_model(pixels, output_hidden_states=True).hidden_states
        chosen = [states[layer + 1] for layer in inner.extract_layers]
        adapted = [0.2 * inner.visual_adapter.fc(state) + 0.8 * state for state in chosen]
        batch, queries = len(pixels), len(conditions)
        repeated = tuple(state.repeat_interleave(queries, dim=0) for state in adapted)
        logits = inner.decoder(repeated, conditions.repeat(batch, 1)).logits
        return logits.reshape(batch, queries, *logits.shape[-2:])

    def loss(self, pixels: Tensor, targets: Tensor, vocabulary: PartVocabulary) -> Tensor:
        """Weighted binary cross-entropy over queries and background; ``targets`` (b, s, s) of class ids or ignore."""
        logits = self.logits(pixels, vocabulary).float()
        classes = len(vocabulary.parts) + 1
        wanted = torch.where(targets == vocabulary.ignore_label, classes - 1, targets)
        one_hot = functional.one_hot(wanted, classes).permute(0, 3, 1, 2).to(logits.dtype)
        weight = torch.ones(classes, device=logits.device)
        weight[-1] = 0.05
        return functional.binary_cross_entropy_with_logits(logits, one_hot, weight=weight[:, None, None])
