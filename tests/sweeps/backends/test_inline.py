"""The inline backend, under the shared contract."""

import threading

import pytest

from sweeps.backends import Paused
from sweeps.backends.inline import InlineBackend
from sweeps.errors import ResourceError
from tests.contracts.backend_contract import LONG, PACED, BackendContract, job, spec


class TestInline(BackendContract):
    @pytest.fixture
    def make(self):
        return lambda *args, **kwargs: InlineBackend(spec(*args, **kwargs))

    def test_more_than_one_worker_is_refused(self):
        with pytest.raises(ResourceError, match="workers is 2, but must be 1"):
            InlineBackend(spec(), workers=2)

    def test_more_towers_than_devices_are_refused_with_the_shortage(self):
        with pytest.raises(ResourceError, match=r"asks for 2 CPUs and 64 GPUs on one node.* GPUs short"):
            InlineBackend(spec(cpus=2, gpus=64, towers=2))
        with pytest.raises(ResourceError, match=r"asks for 4096 CPUs on one node.* CPUs short"):
            InlineBackend(spec(cpus=4096))

    def test_an_interrupt_is_not_swallowed(self, make, monkeypatch):
        from tests.support import trainables

        def interrupt(behaviour):
            raise KeyboardInterrupt

        monkeypatch.setattr(trainables, "behave", interrupt)
        backend = make()
        backend.start(0, job())
        with pytest.raises(KeyboardInterrupt):
            backend.next_event()

    def test_a_run_can_be_paused_from_another_thread_while_it_is_under_way(self, make, tmp_path):
        backend = make(trainable=PACED, gate=tmp_path / "never")
        backend.start(0, job(to_step=LONG))
        timer = threading.Timer(0.3, backend.pause, [0])
        timer.start()
        assert isinstance(backend.next_event(), Paused)
        timer.join()
