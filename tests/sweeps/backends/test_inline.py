"""The inline backend, under the shared contract."""

import pytest

from sweeps.backends.inline import InlineBackend
from sweeps.errors import ResourceError
from tests.contracts.backend_contract import BackendContract, spec


class TestInline(BackendContract):
    @pytest.fixture
    def make(self):
        return lambda behaviour="well": InlineBackend(spec(behaviour))

    def test_more_than_one_worker_is_refused(self):
        with pytest.raises(ResourceError, match="workers is 2, but must be 1"):
            InlineBackend(spec(), workers=2)

    def test_more_towers_than_devices_are_refused_with_the_shortage(self):
        with pytest.raises(ResourceError, match=r"asks for 2 CPUs and 64 GPUs on one node.* GPUs short"):
            InlineBackend(spec(cpus=2, gpus=64, towers=2))
        with pytest.raises(ResourceError, match=r"asks for 4096 CPUs on one node.* CPUs short"):
            InlineBackend(spec(cpus=4096))

    def test_an_interrupt_is_not_swallowed(self, make, monkeypatch):
        from tests.contracts.backend_contract import job
        from tests.support import trainables

        def interrupt(behaviour):
            raise KeyboardInterrupt

        monkeypatch.setattr(trainables, "behave", interrupt)
        backend = make()
        backend.start(0, job())
        with pytest.raises(KeyboardInterrupt):
            backend.next_event()
