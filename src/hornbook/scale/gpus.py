"""The machine table: what each GPU offers, and where the figures come from.

Peak, memory and bandwidth: the makers' data sheets, as gathered in stas00/ml-engineering
(compute/accelerator/README.md, August 2026); RTX: NVIDIA's Ada and Blackwell architecture papers.
`products` is what matrix products really reach there ("maximum achievable matmul FLOPS", the same
page); for the RTX cards, which it lacks, 0.8 of the peak. Links are one direction.
"""

from dataclasses import dataclass

LAMBDA, RUNPOD = "lambda.ai/instances, 2026-09-20", "runpod.io/pricing, 2026-10-07"
RTX_PRICE = "gpu.fund, 2026-05-27"


@dataclass(frozen=True, kw_only=True)
class GPU:
    """One kind of GPU in a machine of several."""

    name: str
    peak_flops: float  # bfloat16, dense, sums in float32
    product_flops: float  # what large matrix products reach of it
    memory_bytes: float
    memory_bytes_per_second: float
    link_bytes_per_second: float  # of one GPU to the others of its machine
    network_bytes_per_second: float  # of one machine to the others
    usd_per_hour: float
    price_source: str
    per_machine: int = 8


GPUS = {
    "a100-40gb": GPU(
        name="A100 SXM 40 GB", peak_flops=312e12, product_flops=271.2e12,
        memory_bytes=40e9, memory_bytes_per_second=1.555e12, link_bytes_per_second=300e9,
        network_bytes_per_second=8 * 25e9, usd_per_hour=1.99, price_source=LAMBDA,
    ),
    "a100-80gb": GPU(
        name="A100 SXM 80 GB", peak_flops=312e12, product_flops=271.2e12,
        memory_bytes=80e9, memory_bytes_per_second=2.039e12, link_bytes_per_second=300e9,
        network_bytes_per_second=8 * 25e9, usd_per_hour=2.79, price_source=LAMBDA,
    ),
    "h100": GPU(
        name="H100 SXM 80 GB", peak_flops=989e12, product_flops=794.5e12,
        memory_bytes=80e9, memory_bytes_per_second=3.35e12, link_bytes_per_second=450e9,
        network_bytes_per_second=8 * 50e9, usd_per_hour=3.99, price_source=LAMBDA,
    ),
    "h200": GPU(
        name="H200 SXM 141 GB", peak_flops=989e12, product_flops=794.5e12,
        memory_bytes=141e9, memory_bytes_per_second=4.8e12, link_bytes_per_second=450e9,
        network_bytes_per_second=8 * 50e9, usd_per_hour=4.59, price_source=RUNPOD,
    ),
    "b200": GPU(
        name="B200 SXM 180 GB", peak_flops=2250e12, product_flops=1745e12,
        memory_bytes=180e9, memory_bytes_per_second=8.0e12, link_bytes_per_second=900e9,
        network_bytes_per_second=8 * 50e9, usd_per_hour=6.69, price_source=LAMBDA,
    ),
    # Without NVLink: PCI Express 4.0 and 5.0 x16. One port of 100 Gbit/s a machine is assumed.
    "rtx4090": GPU(
        name="RTX 4090 24 GB", peak_flops=165.2e12, product_flops=0.8 * 165.2e12,
        memory_bytes=24e9, memory_bytes_per_second=1.008e12, link_bytes_per_second=32e9,
        network_bytes_per_second=12.5e9, usd_per_hour=0.69, price_source=RTX_PRICE,
    ),
    "rtx5090": GPU(
        name="RTX 5090 32 GB", peak_flops=209.5e12, product_flops=0.8 * 209.5e12,
        memory_bytes=32e9, memory_bytes_per_second=1.792e12, link_bytes_per_second=64e9,
        network_bytes_per_second=12.5e9, usd_per_hour=0.91, price_source=RTX_PRICE,
    ),
}  # fmt: skip
