"""The device for computations outside of a Lightning trainer."""

import torch


def best_device() -> torch.device:
    """Return the device that networks run on: a CUDA GPU if there is one, else Apple's GPU (MPS), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def describe_device(device: torch.device) -> str:
    """Return a device in words, such as ``a GPU (NVIDIA H100)`` or ``the CPU``."""
    if device.type == "cuda":
        return f"a GPU ({torch.cuda.get_device_name(device)})"
    return "the CPU" if device.type == "cpu" else f"a GPU ({device.type})"
