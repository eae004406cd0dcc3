"""Transformer Engine without a GPU: its own Python and Megatron's, over kernels written in plain PyTorch.

:func:`install` puts a function of this file in the place of each CUDA kernel that a training step of ours reaches, and tells both
libraries that they are on a Hopper GPU. Everything above the kernels is real: modules, autograd functions, quantisers and their
caches, amax histories, recomputation, sequence parallelism, the fused optimizer, and what the package does with all of it. So
this tests glue. It says nothing about the kernels themselves, nor about speed.

Where a real kernel refuses an operand, so does its stand-in. Hopper's tensor cores take FP8 matrices whose contracted dimension
is the contiguous one (TN products): a product needs the row-wise or the column-wise (transposed) copy of each operand, and one
that is missing is an error. The contracted dimension has to be a multiple of 16, the others of 8, and all of them of 128 where
blocks have scales.

Products are [M, K] x [N, K] -> [M, N]. Attention's kernels have a file of their own, attention.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partialmethod
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
import transformer_engine.pytorch  # noqa: F401 - loads the library that the next one is made for
import transformer_engine_torch as tex
from torch import Tensor
from torch.distributed import ProcessGroup, distributed_c10d
from transformer_engine.pytorch import distributed
from transformer_engine.pytorch import utils as te_utils
from transformer_engine.pytorch.attention.dot_product_attention import context_parallel
from transformer_engine.pytorch.attention.dot_product_attention import utils as attention_utils
from transformer_engine.pytorch.cpp_extensions import gemm
from transformer_engine.pytorch.module import base
from transformer_engine.pytorch.tensor.float8_blockwise_tensor import Float8BlockQuantizer, Float8BlockwiseQTensor
from transformer_engine.pytorch.tensor.float8_tensor import Float8CurrentScalingQuantizer, Float8Quantizer, Float8Tensor
from transformer_engine.pytorch.tensor.storage.float8_blockwise_tensor_storage import Float8BlockwiseQTensorStorage
from transformer_engine.pytorch.tensor.storage.float8_tensor_storage import Float8TensorStorage

from megatron_sppo.models import logit_math, logprobs
from tests.transformer_engine import attention
from tests.transformer_engine.attention import TORCH_DTYPES

BLOCK = 128
FP8 = {tex.DType.kFloat8E4M3: torch.float8_e4m3fn, tex.DType.kFloat8E5M2: torch.float8_e5m2}
# What a quantised tensor holds, with one scale and with one for each block.
COPIES = (
    *("_data", "_scale_inv", "_transpose", "_transpose_invalid"),
    *("_rowwise_data", "_rowwise_scale_inv", "_columnwise_data", "_columnwise_scale_inv"),
)

Quantizer = Float8Quantizer | Float8CurrentScalingQuantizer | Float8BlockQuantizer


# Casts to FP8. A copy is uint8 in memory, and FP8 times its inverse scale is the value.


def as_matrix(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def largest(fp8: tex.DType) -> float:
    return torch.finfo(FP8[fp8]).max


def cast(x: Tensor, scale: Tensor, fp8: tex.DType) -> Tensor:
    limit = largest(fp8)
    return (x.float() * scale).clamp(-limit, limit).to(FP8[fp8]).view(torch.uint8)


def scale_for(amax: Tensor, limit: float, is_power_of_2: bool = False) -> Tensor:
    scale = torch.where(amax > 0, limit / amax, 1.0)
    return scale.log2().floor().exp2() if is_power_of_2 else scale


def quantize(tensor: Tensor, quantizer: Quantizer, out: Any = None, noop: Tensor | None = None) -> Any:
    """FP8 copies of ``tensor``, those that the quantiser asks for; in ``out`` where one is given."""
    assert tensor.is_contiguous() and noop is None
    make = _quantize_blocks if isinstance(quantizer, Float8BlockQuantizer) else _quantize_whole
    fresh = make(tensor.detach(), quantizer)
    if out is None:
        return fresh
    for name in COPIES:
        if hasattr(fresh, name):
            _put(out, name, getattr(fresh, name))
    return out


def _put(out: Any, name: str, value: Any) -> None:
    """In the memory that is there, which an FP8 parameter shares with a buffer of Megatron's."""
    held = getattr(out, name)
    if isinstance(held, Tensor) and isinstance(value, Tensor):
        held.copy_(value.view(held.shape))
    else:
        setattr(out, name, value)


def _quantize_whole(x: Tensor, quantizer: Float8Quantizer | Float8CurrentScalingQuantizer) -> Float8TensorStorage:
    """One scale: of the history (delayed), whose maximum goes on record here, or of the tensor itself."""
    amax = x.abs().max().float()
    if isinstance(quantizer, Float8Quantizer):
        if quantizer.amax.numel():  # a caller that has found the scale itself gives none
            quantizer.amax.copy_(torch.maximum(quantizer.amax, amax))
        scale = quantizer.scale.reshape(())
    else:
        if quantizer.with_amax_reduction:
            torch.distributed.all_reduce(amax, op=torch.distributed.ReduceOp.MAX, group=quantizer.amax_reduction_group)
        scale = scale_for(amax, largest(quantizer.dtype))
    data = cast(x, scale, quantizer.dtype)
    fields = {
        "data": data if quantizer.rowwise_usage else None,
        "data_transpose": fp8_transpose(data, quantizer.dtype) if quantizer.columnwise_usage else None,
        "fp8_scale_inv": scale.reciprocal().reshape(1),
        "fp8_dtype": quantizer.dtype,
        "quantizer": quantizer,
    }
    return Float8TensorStorage(**fields) if quantizer.internal else Float8Tensor(shape=x.shape, dtype=x.dtype, **fields)


def _quantize_blocks(x: Tensor, quantizer: Float8BlockQuantizer) -> Float8BlockwiseQTensorStorage:
    """A scale for each block. The column-wise copy is the transposed matrix, with blocks along its own rows."""
    x_MK = as_matrix(x)
    row, row_inverse = _block_copy(x_MK, quantizer) if quantizer.rowwise_usage else (None, None)
    column, column_inverse = _block_copy(x_MK.t(), quantizer) if quantizer.columnwise_usage else (None, None)
    fields = {
        "rowwise_data": None if row is None else row.reshape(x.shape),
        "rowwise_scale_inv": row_inverse,
        "columnwise_data": None if column is None else column.reshape(x.shape[-1], *x.shape[:-1]),
        "columnwise_scale_inv": column_inverse,
        "fp8_dtype": quantizer.dtype,
        "quantizer": quantizer,
        "is_2D_scaled": quantizer.block_scaling_dim == 2,
    }
    if quantizer.internal:
        return Float8BlockwiseQTensorStorage(**fields)
    return Float8BlockwiseQTensor(shape=x.shape, dtype=x.dtype, **fields)


def _block_copy(x_MK: Tensor, quantizer: Float8BlockQuantizer) -> tuple[Tensor, Tensor]:
    """Bytes [M, K] and inverse scales of blocks of 128 x 128 (weights) or 1 x 128, in the layout that products read."""
    num_rows, num_columns = x_MK.shape
    assert num_rows % BLOCK == num_columns % BLOCK == 0, f"{tuple(x_MK.shape)} is not made of blocks of {BLOCK}"
    height = BLOCK if quantizer.block_scaling_dim == 2 else 1
    scale = scale_for(_block_amax(x_MK, height), largest(quantizer.dtype), quantizer.force_pow_2_scales)
    inverse = scale.reciprocal()
    stored = inverse if height == BLOCK else inverse.t()
    padded = F.pad(stored, (0, -stored.shape[1] % 4)).contiguous()
    return cast(x_MK, _spread(scale, height), quantizer.dtype).contiguous(), padded


def _block_amax(x_MK: Tensor, height: int) -> Tensor:
    num_rows, num_columns = x_MK.shape
    return x_MK.float().abs().reshape(num_rows // height, height, num_columns // BLOCK, BLOCK).amax((1, 3))


def _spread(of_blocks: Tensor, height: int) -> Tensor:
    return of_blocks.repeat_interleave(height, 0).repeat_interleave(BLOCK, 1)


def _block_values(data: Tensor, stored: Tensor, fp8: tex.DType, is_2d: bool) -> Tensor:
    num_rows, num_columns = data.shape
    inverse = stored[:, : num_columns // BLOCK] if is_2d else stored[:, :num_rows].t()
    return data.view(FP8[fp8]).float() * _spread(inverse, BLOCK if is_2d else 1)


def fp8_transpose(data: Tensor, fp8: tex.DType, out: Tensor | None = None) -> Tensor:
    """The last dimension first, the others in their order."""
    transpose = as_matrix(data).t().contiguous().reshape(data.shape[-1], *data.shape[:-1])
    return transpose if out is None else out.copy_(transpose)


def swap_first_dims(tensor: Tensor, out: Tensor | None = None) -> Tensor:
    """What ranks have gathered of transposed matrices lies one after the other; here it comes side by side."""
    swapped = tensor.transpose(0, 1).contiguous()
    return swapped if out is None else out.copy_(swapped)


def bgrad_quantize(grad: Tensor, quantizer: Quantizer) -> tuple[Tensor, Any]:
    """A bias's gradient, and the gradient of what it was added to in FP8."""
    return as_matrix(grad).float().sum(0).to(grad.dtype), quantize(grad.contiguous(), quantizer)


def dequantize(tensor: Float8TensorStorage, dtype: tex.DType) -> Tensor:
    return (tensor._data.view(FP8[tensor._fp8_dtype]).float() * tensor._scale_inv).to(TORCH_DTYPES[dtype])


# FP8 parameters, cast from a data-parallel rank's shards of fp32 weights. Maxima of all shards are there when scales are found.


def compute_amax(shard: Tensor, amax: Tensor) -> None:
    amax.copy_(shard.abs().max().float())


def multi_tensor_compute_scale_and_scale_inv(
    chunk: int, noop: Tensor, lists: Sequence[Sequence[Tensor]], limit: float, force_pow_2_scales: bool, epsilon: float
) -> None:
    assert not epsilon
    for amax, scale, inverse in zip(*lists, strict=True):
        scale.copy_(scale_for(amax, limit, force_pow_2_scales))
        inverse.copy_(scale.reciprocal())


def _in_whole(shard: Tensor, height: int, width: int, start: int) -> Tensor:
    """A shard's elements in their places of a matrix that is zero elsewhere."""
    flat = shard.new_zeros(height * width, dtype=torch.float32)
    flat[start : start + shard.numel()] = shard.float()
    return flat.view(height, width)


def fp8_block_scaling_compute_partial_amax(shard: Tensor, amax: Tensor, height: int, width: int, start: int, block: int) -> None:
    assert block == BLOCK and height % BLOCK == width % BLOCK == 0
    amax[:, : width // BLOCK].copy_(_block_amax(_in_whole(shard, height, width, start), BLOCK))


def fp8_block_scaling_partial_cast(
    shard: Tensor, out: Tensor, scale: Tensor, height: int, width: int, start: int, block: int, fp8: tex.DType
) -> None:
    scales = _spread(scale[:, : width // BLOCK], BLOCK)
    out.copy_(cast(_in_whole(shard, height, width, start), scales, fp8).flatten()[start : start + shard.numel()])


# Products.


def is_fp8(operand: Any) -> bool:
    return isinstance(operand, Float8TensorStorage | Float8BlockwiseQTensorStorage)


def contracted_last(operand: Any, is_rowwise: bool) -> Tensor:
    """The matrix as float, from the copy whose last dimension is the contracted one; an FP8 operand has to have that copy."""
    if isinstance(operand, Float8TensorStorage):
        data = operand._data if is_rowwise else operand._transpose
        assert data is not None, f"this product needs the {'row-wise' if is_rowwise else 'column-wise'} FP8 copy"
        matrix = as_matrix(data) if is_rowwise else data.reshape(data.shape[0], -1)
        return matrix.view(FP8[operand._fp8_dtype]).float() * operand._scale_inv
    if isinstance(operand, Float8BlockwiseQTensorStorage):
        data = operand._rowwise_data if is_rowwise else operand._columnwise_data
        scales = operand._rowwise_scale_inv if is_rowwise else operand._columnwise_scale_inv
        assert data is not None, f"this product needs the {'row-wise' if is_rowwise else 'column-wise'} FP8 copy"
        matrix = as_matrix(data) if is_rowwise else data.reshape(data.shape[0], -1)
        return _block_values(matrix, scales, operand._fp8_dtype, operand._is_2D_scaled)
    matrix = as_matrix(operand.detach().float())
    return matrix if is_rowwise else matrix.t()


def generic_gemm(
    a: Any,
    is_a_transposed: bool,
    b: Any,
    is_b_transposed: bool,
    out: Tensor | None,
    out_quantizer: Quantizer | None,
    out_dtype: tex.DType | None,
    bias: Tensor | None,
    bias_dtype: tex.DType,
    gelu: bool,
    gelu_input: Tensor | None,
    is_gradient: bool,
    workspace: Tensor,
    workspace_size: int,
    accumulates: bool,
    use_split_accumulator: bool,
    **unused: Any,
) -> tuple[Tensor, Tensor | None, None, None]:
    """cuBLAS's column-major call: ``b`` is [.., K] and ``a`` [N, K], and each may be the transpose of that."""
    assert not gelu and out_quantizer is None and unused["comm_overlap"] is None
    assert is_fp8(a) == is_fp8(b), "both operands are FP8, or none"
    a_NK, b_MK = contracted_last(a, is_rowwise=is_a_transposed), contracted_last(b, is_rowwise=not is_b_transposed)
    if is_fp8(a):
        (m, k), n = b_MK.shape, a_NK.shape[0]
        assert k % 16 == 0 and n % 8 == 0 and m % 8 == 0, f"FP8 product of [{m}, {k}] and [{n}, {k}]"
    product_MN, bias_grad = b_MK @ a_NK.t(), None
    if bias is not None and bias.numel():
        if is_gradient:
            bias_grad = b_MK.sum(1).to(TORCH_DTYPES[bias_dtype])
        else:
            product_MN += bias.detach().float()
    if out is not None:
        found = out.add_(product_MN.to(out.dtype)) if accumulates else out.copy_(product_MN)
    else:
        found = product_MN.to(torch.bfloat16 if out_dtype is None else TORCH_DTYPES[out_dtype])
        found = found if is_b_transposed else found.reshape(*_rows_of(b), found.shape[-1])
    return found, bias_grad, None, None


def _rows_of(operand: Any) -> torch.Size:
    """All dimensions but the last, of an operand whose row-wise copy is there."""
    names = ("_data", "_rowwise_data") if is_fp8(operand) else ()
    held = next((data for name in names if (data := getattr(operand, name, None)) is not None), operand)
    return held.shape[:-1]


# Norms, attention, optimizer.


def rmsnorm_fwd(
    x: Tensor,
    weight: Tensor,
    eps: float,
    out: Tensor | None,
    quantizer: Quantizer | None,
    out_dtype: tex.DType,
    sm_margin: int,
    is_gamma_zero_centered: bool,
) -> tuple[Any, None, Tensor]:
    assert out is None and not is_gamma_zero_centered
    inverse_rms = torch.rsqrt(x.detach().float().pow(2).mean(-1) + eps)
    y = (x.detach().float() * inverse_rms[..., None] * weight.detach().float()).to(x.dtype)
    return (y if quantizer is None else quantize(y, quantizer)), None, inverse_rms


def rmsnorm_bwd(
    grad: Tensor, x: Tensor, inverse_rms: Tensor, weight: Tensor, sm_margin: int, is_gamma_zero_centered: bool
) -> tuple[Tensor, Tensor]:
    normed = x.float() * inverse_rms[..., None]
    scaled = grad.float() * weight.detach().float()
    of_x = inverse_rms[..., None] * (scaled - normed * (scaled * normed).mean(-1, keepdim=True))
    return of_x.to(x.dtype), (grad.float() * normed).sum(0).to(weight.dtype)


def choose_fused_attention(parameters: Any) -> tuple[Any, ...]:
    """(flash, its backend, fused, its backend, unfused, all that could be): cuDNN's, which an H100 takes for packed rows."""
    return False, None, True, tex.NVTE_Fused_Attn_Backend.NVTE_F16_arbitrary_seqlen, False, [False, True, False]


def multi_tensor_adam(
    chunk: int,
    noop: Tensor,
    lists: Sequence[Sequence[Tensor]],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    mode: int,
    bias_correction: int,
    weight_decay: float,
) -> None:
    assert mode == 1 and bias_correction, "AdamW"
    gradients, parameters, *moments = lists
    torch._fused_adamw_(
        parameters,
        [gradient.to(parameter.dtype) for gradient, parameter in zip(gradients, parameters, strict=True)],
        *moments,
        [],
        [torch.tensor(float(step))] * len(parameters),
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )


def multi_tensor_l2norm(chunk: int, noop: Tensor, lists: Sequence[Sequence[Tensor]], *per_tensor: bool) -> tuple[Tensor, None]:
    return torch.stack([tensor.float().pow(2).sum() for tensor in lists[0]]).sum().sqrt().reshape(1), None


def multi_tensor_scale(chunk: int, noop: Tensor, lists: Sequence[Sequence[Tensor]], scale: float) -> None:
    for source, target in zip(*lists, strict=True):
        target.copy_(source * scale)


# Putting them in place.


def _replace(original: Any, stand_in: Any) -> None:
    """Wherever either library holds ``original``, under whatever name it was imported."""
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] in ("transformer_engine", "transformer_engine_torch", "megatron"):
            for name in [name for name, value in vars(module).items() if value is original]:
                setattr(module, name, stand_in)


def _init_as_on_a_gpu(self: Any, *args: Any, plain: Callable[..., None], **kwargs: Any) -> None:
    with patch.object(torch.cuda, "is_available", lambda: True):
        plain(self, *args, **kwargs)


@contextmanager
def _one_after_the_other(
    group: ProcessGroup | None = None, device: torch.device | None = None, async_ops: bool = False
) -> Iterator[SimpleNamespace]:
    """Queued collectives, each on its own: gloo joins them into one only where all are of one dtype and no device is named."""
    group = group or torch.distributed.group.WORLD
    works: list[Any] = []
    queued = distributed_c10d._world.pg_coalesce_state.setdefault(group, [])
    yield SimpleNamespace(wait=lambda: [work.wait() for work in works])
    del distributed_c10d._world.pg_coalesce_state[group]
    for each in queued:
        tensors = [each.tensor] if each.dst_tensor is None else [each.dst_tensor, each.tensor]
        reduction = {} if each.redop is None else {"op": each.redop}
        works.append(each.op(*tensors, group=group, async_op=async_ops, **reduction))


def _pretend_to_be_on_hopper() -> None:
    hopper = SimpleNamespace(major=9, minor=0, multi_processor_count=132, name="NVIDIA H100", total_memory=80 * 2**30)
    torch.cuda.get_device_properties = lambda *args: hopper
    torch.cuda.get_device_capability = lambda *args: (9, 0)
    torch.cuda.is_current_stream_capturing = lambda: False
    torch.Tensor.is_cuda = property(lambda self: True)
    module = base.TransformerEngineBaseModule
    module.__init__ = partialmethod(_init_as_on_a_gpu, plain=module.__init__)
    # The package asks a tensor whether it is on a GPU to choose between Triton and PyTorch.
    logprobs._passes = lambda logits: logit_math
    logprobs._add_product = lambda total, a, b: total.add_(a.float() @ b.float())


def install() -> None:
    """Once, in a process without a GPU, after Megatron was made to run there and before a layer is built."""
    assert not torch.cuda.is_available(), "with a GPU, run Transformer Engine itself"
    os.environ["NVTE_UNFUSED_FP8_UPDATE"] = "1"  # delayed scales by Transformer Engine's own PyTorch, without a kernel
    _pretend_to_be_on_hopper()
    torch.distributed._coalescing_manager = _one_after_the_other
    _replace(distributed_c10d._coalescing_manager, _one_after_the_other)
    for kernel in (quantize, generic_gemm, rmsnorm_fwd, rmsnorm_bwd, bgrad_quantize, fp8_transpose, swap_first_dims):
        _replace(getattr(tex, kernel.__name__), kernel)
    for kernel in (multi_tensor_adam, multi_tensor_l2norm, multi_tensor_scale):
        _replace(getattr(tex, kernel.__name__), kernel)
    for kernel in (dequantize, compute_amax, multi_tensor_compute_scale_and_scale_inv):
        _replace(getattr(tex, kernel.__name__), kernel)
    for kernel in (fp8_block_scaling_compute_partial_amax, fp8_block_scaling_partial_cast):
        _replace(getattr(tex, kernel.__name__), kernel)
    _replace(tex.get_cublasLt_version, lambda: 130100)
    _replace(gemm.get_cublas_workspace, lambda *args: torch.empty(1))
    _replace(gemm.get_tensor_device, lambda tensor: 0)
    _replace(distributed._get_cuda_rng_state, lambda *args, **kwargs: torch.get_rng_state())
    _replace(distributed._set_cuda_rng_state, lambda state, *args, **kwargs: torch.set_rng_state(state))
    _replace(attention_utils.get_attention_backend, choose_fused_attention)
    _replace(te_utils.get_cudnn_version, lambda: (9, 10, 0))
    _replace(context_parallel.flash_attn_p2p_communicate, attention.flash_attn_p2p_communicate)
    for kernel in attention.KERNELS:
        _replace(getattr(tex, kernel.__name__), kernel)
