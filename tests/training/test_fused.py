"""The compiled kernels give what plain torch gives, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from streamdac.training import fused, kernels


@pytest.fixture(autouse=True)
def _needs_kernels() -> None:
    if kernels.library() is None:
        pytest.skip("no C++ compiler")


def plain(x: Tensor, y: Tensor | None, alpha: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:
    total = x if y is None else x + y
    return total, F.pad(total + torch.sin(alpha * total).square() / (alpha + 1e-9), (0, 0, left, right))


@pytest.mark.parametrize("channels", [1, 7, 24, 64])
@pytest.mark.parametrize("steps", [1, 16, 50])
@pytest.mark.parametrize("summed", [False, True])
def test_snake_and_its_gradients_equal_plain_torch(channels: int, steps: int, summed: bool) -> None:
    torch.manual_seed(channels * 100 + steps)
    x = (5 * torch.randn(3, steps, channels)).requires_grad_()
    y = torch.randn(3, steps, channels, requires_grad=True) if summed else None
    alpha = (0.1 + 3 * torch.rand(channels)).requires_grad_()
    inputs = [x, alpha] + ([] if y is None else [y])
    weights = torch.randn(3, steps, channels), torch.randn(3, 6 + steps + 2, channels)
    results = []
    for total, out in (plain(x, y, alpha, 6, 2), fused.snake_pad(x, y, alpha, left=6, right=2)):
        objective = (total * weights[0]).sum() + (out * weights[1]).sum()
        results.append([total, out, *torch.autograd.grad(objective, inputs)])
    for wanted, got in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize(("c_in", "c_out"), [(1, 3), (24, 24), (5, 50), (48, 128)])
@pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (2, 1), (3, 2), (7, 9)])
@pytest.mark.parametrize("steps", [1, 40, 300])
def test_convolution_and_its_gradients_equal_plain_torch(
    c_in: int, c_out: int, taps: int, dilation: int, steps: int
) -> None:
    torch.manual_seed(steps)
    x = torch.randn(3, steps + (taps - 1) * dilation, c_in, requires_grad=True)
    weight, bias = torch.randn(c_out, c_in, taps, requires_grad=True), torch.randn(c_out, requires_grad=True)
    upstream = torch.randn(3, steps, c_out)
    wanted = F.conv1d(x.transpose(1, 2), weight, bias, dilation=dilation).transpose(1, 2)
    got = fused.convolve(x, weight, bias, dilation=dilation)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    both = [torch.autograd.grad((y * upstream).sum(), [x, weight, bias]) for y in (wanted, got)]
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (7, 9)])
def test_gradients_in_bf16_leave_the_convolution_exact(taps: int, dilation: int) -> None:
    torch.manual_seed(taps)
    x = torch.randn(3, 50 + (taps - 1) * dilation, 24, requires_grad=True)
    weight, bias = torch.randn(8, 24, taps, requires_grad=True), torch.randn(8, requires_grad=True)
    wanted = fused.convolve(x, weight, bias, dilation=dilation)
    got = fused.convolve(x, weight, bias, dilation=dilation, gradients=torch.bfloat16)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(got.shape)
    both = [torch.autograd.grad((y * upstream).sum(), [x, weight, bias]) for y in (wanted, got)]
    for a, b in zip(*both, strict=True):
        assert b.dtype == torch.float32
        assert (b - a).norm() < 0.01 * a.norm()


def test_snake_holds_far_from_zero() -> None:
    x = torch.linspace(-200, 200, 4001)[None, :, None]
    alpha = torch.tensor([2.5])
    wanted = plain(x.double(), None, alpha.double(), 0, 0)[1].float()
    torch.testing.assert_close(fused.snake_pad(x, None, alpha)[1], wanted, rtol=1e-6, atol=3e-5)


def test_bf16_snake_is_rounded_once() -> None:
    x, y = torch.randn(2, 40, 24).bfloat16(), torch.randn(2, 40, 24).bfloat16()
    alpha = 0.5 + torch.rand(24)
    total, out = fused.snake_pad(x, y, alpha, left=3)
    assert torch.equal(total, x + y)
    wanted = plain(total.float(), None, alpha, 3, 0)[1]
    torch.testing.assert_close(out.float(), wanted, rtol=2**-8, atol=1e-6)


def test_gradients_do_not_depend_on_the_run_only_on_the_thread_count() -> None:
    x, alpha = torch.randn(4, 3000, 24), (0.5 + torch.rand(24)).requires_grad_()
    gradients = [torch.autograd.grad(fused.snake_pad(x, None, alpha)[1].square().sum(), alpha)[0] for _ in range(3)]
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_magnitude_equals_abs_with_zero_gradient_at_zero() -> None:
    z = torch.randn(2, 9, 17, dtype=torch.complex64)
    z[0, :3] = 0
    weight = torch.randn(2, 9, 17)
    results = []
    for function in (torch.abs, fused.magnitude):
        leaf = z.clone().requires_grad_()
        out = function(leaf)
        results.append((out, *torch.autograd.grad((out * weight).sum(), leaf)))
    for wanted, got in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("lean", [0.0, 0.6])
def test_distance_of_compressed_spectra_and_its_gradient_equal_plain_torch(lean: float) -> None:
    a, b = (
        torch.randn(3, 7, 33, dtype=torch.complex128) * 10 ** (4 * torch.rand(3, 7, 33).double() - 4) for _ in range(2)
    )
    a[0, 0], b[1] = 0, 1e-6 * b[1]
    weight = torch.tensor([1.0, -2.0, 3.0])
    results = []
    for kind in (torch.complex128, torch.complex64):
        leaf = a.to(kind).requires_grad_()
        out = fused.compressed_distance(leaf, b.to(kind), power=0.3, phase=0.3, floor=1e-7, lean=lean)
        results.append((out.float(), torch.autograd.grad((out * weight).sum(), leaf)[0].to(torch.complex64)))
    for wanted, got in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=2e-5, atol=2e-6 * float(wanted.detach().abs().max()))


def test_distance_of_logs_and_its_gradient_equal_plain_torch() -> None:
    a, b = (10 ** (8 * torch.rand(5, 1999).double() - 7) for _ in range(2))
    a[0, :9] = b[0, :9]
    a[1, :9] = b[2, :9] = 0
    results = []
    for kind in (torch.float64, torch.float32):
        leaf = a.to(kind).requires_grad_()
        out = fused.log_distance(leaf, b.to(kind), clamp=1e-5, lean=0.4, log_weight=2.0, mag_weight=0.5)
        results.append((out.float(), torch.autograd.grad(3 * out, leaf)[0].float()))
    for wanted, got in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-8)


def test_without_compiler_plain_torch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "library", lambda: None)
    x, alpha = torch.randn(2, 10, 4), torch.ones(4)
    torch.testing.assert_close(fused.snake_pad(x, None, alpha, left=2)[1], plain(x, None, alpha, 2, 0)[1])
    assert not fused.usable(x)


def test_a_failing_compiler_is_a_note_not_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    assert kernels.library.__wrapped__() is None
    assert "plain torch" in capsys.readouterr().err


def test_where_there_is_no_home_training_uses_plain_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(kernels.Path, "home", nobody)
    assert kernels.library.__wrapped__() is None
    assert "Could not determine home directory" in capsys.readouterr().err


def test_distances_of_other_shapes_are_refused() -> None:
    """The kernels would read past the end of the shorter one."""
    a, b = torch.rand(2, 5, 7), torch.rand(2, 4, 7)
    with pytest.raises(ValueError, match=r"shapes \(2, 5, 7\) and \(2, 4, 7\) differ"):
        fused.log_distance(a, b, clamp=1e-5)
    with pytest.raises(ValueError, match="differ"):
        fused.compressed_distance(torch.complex(a, a), torch.complex(b, b), power=0.3, phase=0.5, floor=1e-9)
