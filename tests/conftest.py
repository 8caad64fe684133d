import signal

import pytest
import torch

torch.set_num_threads(1)

# What a shell has this process ignore (Ctrl-C in the background, a hang-up under nohup), every program that is tested
# would ignore too. Handlers are not passed on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(1234)
