"""cuDNN's attention over packed (thd) rows, and the kernels that join its parts under context parallelism, in plain PyTorch.

What calls them is Transformer Engine's own: `FusedAttention`, and with context parallelism the ring that sends keys and values
around, attends part by part and joins the parts by their softmax normalisers. A normaliser is the logarithm of a row's sum of
exponentials, [T, heads, 1], as cuDNN 9.6 and later give it. Each rank holds two chunks of every sequence, its halves.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import transformer_engine_torch as tex
from torch import Tensor
from transformer_engine.pytorch.attention.dot_product_attention import context_parallel
from transformer_engine.pytorch.constants import TE_DType

TORCH_DTYPES = {te_dtype: dtype for dtype, te_dtype in TE_DType.items()}
CAUSAL = {tex.NVTE_Mask_Type.NVTE_PADDING_CAUSAL_MASK: True, tex.NVTE_Mask_Type.NVTE_PADDING_MASK: False}


def spans(lengths: Tensor, bounds: Tensor | None) -> list[slice]:
    """Where each sequence lies in its row; padding may come between them."""
    starts = (lengths if bounds is None else bounds)[:-1].tolist()
    return [slice(start, start + end - begin) for (begin, end), start in zip(pairwise(lengths.tolist()), starts, strict=True)]


def scores(query: Tensor, key: Tensor, scale: float, is_causal: bool) -> Tensor:
    """[heads, q, k] of one sequence in fp32; keys [k, kv_heads, d] are shared by groups of heads."""
    groups = query.shape[1] // key.shape[1]
    found = torch.einsum("qhd,khd->hqk", query.float(), key.float().repeat_interleave(groups, 1)) * scale
    if is_causal:
        found = found.masked_fill(torch.ones(found.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
    return found


def fused_attn_fwd(*arguments: Any) -> list[Tensor]:
    _, _, _, scale, dropout, _, layout, bias, mask, softmax, window, _, *rest = arguments
    lengths_q, lengths_kv, query, key, value, _, bounds_q, bounds_kv, *_ = rest
    assert layout == tex.NVTE_QKV_Layout.NVTE_THD_THD_THD and bias == tex.NVTE_Bias_Type.NVTE_NO_BIAS and not dropout
    assert softmax == tex.NVTE_Softmax_Type.NVTE_VANILLA_SOFTMAX and tuple(window) in ((-1, -1), (-1, 0))
    output, normaliser = torch.zeros_like(query), query.new_zeros(*query.shape[:2], 1, dtype=torch.float32)
    groups = query.shape[1] // key.shape[1]
    for at_q, at_kv in zip(spans(lengths_q, bounds_q), spans(lengths_kv, bounds_kv), strict=True):
        s_hqk = scores(query[at_q], key[at_kv], scale, CAUSAL[mask])
        values = value[at_kv].float().repeat_interleave(groups, 1)
        output[at_q] = torch.einsum("hqk,khd->qhd", s_hqk.softmax(-1), values).to(query.dtype)
        normaliser[at_q] = s_hqk.logsumexp(-1).t()[..., None]
    return [output, normaliser, torch.zeros(2, dtype=torch.int64)]


def fused_attn_bwd(*arguments: Any) -> list[Tensor | None]:
    """With the normaliser of the whole row, of which keys may be a part: p = exp(score - normaliser)."""
    _, _, scale, _, _, _, _, mask, _, _, _, _, *rest = arguments
    lengths_q, lengths_kv, query, key, value, output, grad, _, dtype, (normaliser, *_), bounds_q, bounds_kv, *_ = rest
    of_query, of_key, of_value = (torch.zeros(x.shape, dtype=torch.float32) for x in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    for at_q, at_kv in zip(spans(lengths_q, bounds_q), spans(lengths_kv, bounds_kv), strict=True):
        keys, values = (x[at_kv].float().repeat_interleave(groups, 1) for x in (key, value))
        p_hqk = (scores(query[at_q], key[at_kv], scale, CAUSAL[mask]) - normaliser[at_q, :, 0].t()[..., None]).exp()
        g_qhd = grad[at_q].float()
        delta_hq = (g_qhd * output[at_q].float()).sum(-1).t()
        ds_hqk = p_hqk * (torch.einsum("qhd,khd->hqk", g_qhd, values) - delta_hq[..., None]) * scale
        of_query[at_q] = torch.einsum("hqk,khd->qhd", ds_hqk, keys)
        of_key[at_kv] = _of_groups(torch.einsum("hqk,qhd->khd", ds_hqk, query[at_q].float()), groups)
        of_value[at_kv] = _of_groups(torch.einsum("hqk,qhd->khd", p_hqk, g_qhd), groups)
    return [*(x.to(query.dtype if dtype is None else TORCH_DTYPES[dtype]) for x in (of_query, of_key, of_value)), None, None]


def _of_groups(per_head_khd: Tensor, groups: int) -> Tensor:
    return per_head_khd.unflatten(1, (-1, groups)).sum(2)


# Halves of every sequence. ``bounds`` are those of this rank's part of the row.


def half(bounds: Tensor, second: int) -> Tensor:
    """[T / 2] positions in a rank's part of the row."""
    pairs = pairwise(bounds.tolist())
    return torch.cat([torch.arange(begin, end).view(2, -1)[second] for begin, end in pairs])


def thd_read_half_tensor(tensor: Tensor, bounds: Tensor, second: int) -> Tensor:
    return tensor[half(bounds, second)]


def thd_second_half_lse_correction(normaliser_hT: Tensor, part_ht: Tensor, bounds: Tensor, is_packed: bool) -> None:
    assert is_packed
    at = half(bounds, 1)
    normaliser_hT[:, at] = torch.logaddexp(normaliser_hT[:, at], part_ht)


def thd_read_second_half_lse(normaliser_hT: Tensor, bounds: Tensor, is_packed: bool, length: int) -> Tensor:
    assert is_packed and 2 * length == normaliser_hT.shape[1]
    return normaliser_hT[:, half(bounds, 1)]


def thd_out_correction(
    output: Tensor, part: Tensor, normaliser_hT: Tensor, part_normaliser_ht: Tensor, bounds: Tensor, second: bool, is_packed: bool
) -> None:
    assert is_packed
    at = half(bounds, 1) if second else torch.arange(output.shape[0])
    weight = (part_normaliser_ht - normaliser_hT[:, at]).exp().t()[..., None]
    output[at] = (output[at].float() + part.float() * weight).to(output.dtype)


def thd_grad_correction(grad: Tensor, part: Tensor, bounds: Tensor, first: str, second: str) -> None:
    """Each half is added, copied, or left alone; ``part`` has the halves that are not left alone."""
    is_whole = "none" not in (first, second)
    for number, what in enumerate((first, second)):
        at = half(bounds, number)
        if what != "none":
            values = part[at] if is_whole else part
            grad[at] = values if what == "copy" else grad[at] + values


class _WaitedForOnce:
    """Gloo blocks for ever where a message that has arrived is waited for again, as the ring does on its way back."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def wait(self) -> None:
        if self._work is not None:
            self._work.wait()
        self._work = None


def flash_attn_p2p_communicate(*arguments: Any) -> list[_WaitedForOnce]:
    return [_WaitedForOnce(work) for work in _communicate(*arguments)]


_communicate = context_parallel.flash_attn_p2p_communicate
KERNELS = (
    *(fused_attn_fwd, fused_attn_bwd, thd_read_half_tensor, thd_second_half_lse_correction),
    *(thd_read_second_half_lse, thd_out_correction, thd_grad_correction),
)
