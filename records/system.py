"""Use of processors, memory, disk, network and GPUs while a run goes on, through MLflow's own monitors."""

import contextlib
import threading
from collections.abc import Callable, Mapping

from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor


class SystemMetrics:
    """A thread that samples every `interval` seconds and hands the values to `write(metrics, step)`.

    MLflow's SystemMetricsMonitor sends each sample itself and ends at the first failed request; this one writes to the
    spool, so that its curve has no hole where the store was away.
    """

    def __init__(
        self, write: Callable[[Mapping[str, float], int], None], first_step: int, interval: float = 10.0
    ) -> None:
        self._write, self._step, self._interval = write, first_step, interval
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(Exception):  # no NVIDIA library, or no such GPU
            monitors.append(GPUMonitor())
        for monitor in monitors:  # the first reading of a processor's use is always zero
            with contextlib.suppress(Exception):
                monitor.collect_metrics()
                monitor.clear_metrics()
        pause = min(1.0, self._interval)  # the first sample soon, so that a short run has one
        while not self._ending.wait(pause):
            metrics: dict[str, float] = {}
            for monitor in monitors:
                with contextlib.suppress(Exception):  # a sensor that fails must not end the run
                    monitor.collect_metrics()
                    metrics |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            try:
                self._write({f"system/{key}": float(value) for key, value in metrics.items()}, self._step)
            except Exception:  # the training thread meets the same full disk, and says so
                return
            self._step += 1
            pause = self._interval
