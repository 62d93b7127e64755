"""A pretended CUDA device for machines without one: it finds on a CPU what would fail, wait or be copied on CUDA.

    from dllm.testing.device import PretendedDevice, step_costs

    def test_my_policy_waits_once_a_step():
        for cost in step_costs(model, requests, strategy)[1:]:
            assert cost.stalls.total() <= 1 and not cost.blocking, cost

    def test_anything_else():
        with PretendedDevice() as device:
            model = device.put(tiny_model)                   # weights on "cuda:0"
            for step in dllm.steps(model, requests, strategy):   # raises what CUDA would raise
                device.record.next_step()
            print(device.record.table("stall"))

A tensor on the device is a `PretendedTensor`: a subclass that says `device="cuda:0"` and holds an ordinary CPU tensor.
A dispatch mode sees every operation of every thread that begins meanwhile. It raises where a CUDA build raises (tensors
of two devices, an operation or dtype without a CUDA kernel, a generator of the other device), computes on the CPU
tensors otherwise, and records what the operation is on a device, by step and by the line that caused it:

    launch    kernels are enqueued; views and allocations are none
    wait      the host waits for the device: a copy to the host, `item`, `nonzero`, a boolean index, `equal`, …, and
              every blocking copy to the device, behind which PyTorch synchronises the stream
    stall     a wait with kernels enqueued since the last one: the host idles until the device has done them, and then
              the device until the host has enqueued more. Two waits in a row are one stall
    blocking  the waits that are copies to the device without `non_blocking`
    h2d       a copy to the device that does not block, from ordinary memory: 5 to 10 µs of the host
    pinned    a copy to the device that does not block, from pinned memory: truly asynchronous
    d2h       a copy to the host that does not block
    host      an operation on CPU tensors
    race      a write with repeated indices, of which CUDA keeps any

So that what works on a CPU by luck does not work here, memory from `torch.empty` is NaN or a large number; of repeated
indices in `scatter` and `index_copy` the first wins, where the CPU lets the last win; what comes from a copy to the
host that does not block is NaN until the host waits; and a pinned tensor that is overwritten while its copy is under
way raises at the next wait.

What it cannot see: time; numerics of GPU kernels (order of sums, TF32, ties in `topk`); memory; more than one device or
stream; limits of single kernels; what `torch.compile`, Triton and CUDA graphs make of code (`torch.compile` gives the
function back as it is; `Record.difference` asks of eager code what a graph asks); C++ that reads `data_ptr`; backward
passes; devices by number (`torch.device(0)`); operations in threads that began before. Counts of kernels take a table
for operations of several kernels and are right to about a tenth.
"""

from dllm.testing.device.costs import StepCost, step_costs
from dllm.testing.device.pretended import PretendedDevice
from dllm.testing.device.record import Amount, Event, Record
from dllm.testing.device.tensor import PretendedDeviceError, PretendedTensor

__all__ = [
    "Amount",
    "Event",
    "PretendedDevice",
    "PretendedDeviceError",
    "PretendedTensor",
    "Record",
    "StepCost",
    "step_costs",
]
