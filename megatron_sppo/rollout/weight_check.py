"""Proof that vLLM's parameters are the trainer's weights, tensor by tensor and bit by bit."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from torch import Tensor

from megatron_sppo.errors import WeightMismatch
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.parallel.collectives import gather_objects
from megatron_sppo.rollout.checksum import box_checksum
from megatron_sppo.rollout.weight_table import Region, weight_regions

_EMBEDDING = "model.embed_tokens.weight"
_VOCABULARIES = (_EMBEDDING, "lm_head.weight")


class WeightCheck:
    """Feed :meth:`compare` every HF tensor once, then call :meth:`finish` (collective), which raises on all ranks or on none."""

    def __init__(self, model: HFModelConfig, tp: int, tp_rank: int, params: Mapping[str, Tensor]) -> None:
        """``params`` are this rank's vLLM parameters, tied ones once."""
        regions = weight_regions(model, tp, tp_rank, params[_EMBEDDING].shape[0])
        self._params, self._faults = params, list[tuple[str, str, str]]()
        self._waiting: dict[str, list[Region]] = defaultdict(list)
        for region in regions:
            self._waiting[region.hf_name].append(region)
        self._check_coverage(regions)

    def _check_coverage(self, regions: list[Region]) -> None:
        """Each element of each parameter is in one region, but for the rows that pad the vocabulary."""
        covered: dict[str, int] = defaultdict(int)
        for region in regions:
            covered[region.param] += region.count
        dims = {region.param: region.dim for region in regions}
        for name, param in self._params.items():
            expected = covered[name] if name in _VOCABULARIES else param.shape[dims.get(name, 0)]
            if name not in dims or covered[name] != expected:
                self._faults.append(("(none)", name, f"{covered[name]} of {expected} rows correspond to an HF tensor"))
        self._faults += [(r.hf_name, r.param, "vLLM has no such parameter") for r in regions if r.param not in self._params]

    def compare(self, name: str, tensor: Tensor) -> None:
        """Compare one full HF tensor with what this rank holds of it."""
        if name not in self._waiting:
            self._faults.append((name, "(none)", "given twice or unknown to the weight table"))
        for region in self._waiting.pop(name, []):
            param = self._params.get(region.param)
            if param is None:
                continue  # recorded by the coverage check
            theirs = param.detach().narrow(region.dim, region.param_start, region.count)
            ours = tensor.detach().narrow(region.dim, region.hf_start, region.count).to(theirs)
            start = [0] * tensor.ndim
            start[region.dim] = region.hf_start
            if ours.shape != theirs.shape:
                self._faults.append((name, region.param, f"shape {tuple(theirs.shape)}, not {tuple(ours.shape)}"))
            elif box_checksum(ours, start, tensor.shape) != box_checksum(theirs, start, tensor.shape):
                self._faults.append((name, region.param, f"checksum of {math.prod(ours.shape)} elements differs"))

    def finish(self) -> None:
        """Raise :class:`WeightMismatch` on every rank if any rank found a fault. Collective over the world."""
        self._faults += [(name, regions[0].param, "never given") for name, regions in self._waiting.items()]
        ranks_of: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        for rank, faults in enumerate(gather_objects(self._faults)):
            for fault in faults:
                ranks_of[fault].append(rank)
        if ranks_of:
            lines = [f"{hf} -> {param} on ranks {ranks}: {what}" for (hf, param, what), ranks in ranks_of.items()]
            more = f" (and {len(lines) - 5} more)" if len(lines) > 5 else ""
            raise WeightMismatch(f"vLLM does not hold the trainer's weights: {'; '.join(lines[:5])}{more}")
