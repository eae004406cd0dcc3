"""What a plan takes for granted because no config says it. Each is printed with the plan; none was measured on a GPU by us."""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9


@dataclass(frozen=True)
class Assumptions:
    # lengths, as shares of their limits
    mean_prompt: float = 1 / 8
    mean_response: float = 1 / 2
    # memory of a rank, bytes
    context: float = 2.0 * GB  # CUDA context, NCCL buffers, cuBLAS workspaces
    cuda_graphs: float = 1.5 * GB  # of vLLM, outside its share
    fragmentation: float = 0.03  # of the GPU
    # rates, as shares of the data sheet's
    train_flops: float = 0.40
    forward_flops: float = 0.45
    decode_flops: float = 0.50
    decode_bandwidth: float = 0.70
    # latencies of one decoding step, seconds
    scheduling: float = 3e-3
    all_reduce: float = 15e-6  # twice a layer under TP
    # links, bytes/s of one rank
    network: float = 50e9  # one 400 Gb/s adapter per GPU
    host_link: float = 50e9  # PCIe 5 x16
    link_efficiency: float = 0.5

    def describe(self) -> tuple[str, ...]:
        """Lines for a person."""
        return (
            f"mean prompt {self.mean_prompt:.1%} and mean response {self.mean_response:.1%} of their limits",
            f"a rank's CUDA context and NCCL buffers {self.context / GB:.1f} GB, its CUDA graphs {self.cuda_graphs / GB:.1f} GB",
            f"{self.fragmentation:.0%} of the GPU lost to fragmentation",
            "PyTorch's cached blocks are returned before vLLM wakes",
            f"of peak FLOP/s {self.train_flops:.0%} in updates and {self.forward_flops:.0%} in forward passes",
            f"in decoding {self.decode_flops:.0%} of peak FLOP/s and {self.decode_bandwidth:.0%} of memory bandwidth",
            f"a decoding step takes {self.scheduling * 1e3:.0f} ms to schedule and {self.all_reduce * 1e6:.0f} us per all-reduce",
            f"a GPU has {self.network / GB:.0f} GB/s to other nodes and {self.host_link / GB:.0f} GB/s to its host",
            f"{self.link_efficiency:.0%} of each link reached in a reshard",
        )
