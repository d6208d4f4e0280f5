"""The linear codec against the singular value decomposition."""

import torch

from autoencoder.linear import fit_linear


def test_it_is_the_best_projection():
    clips = torch.randn(12, 3, 2, 4, dtype=torch.float64)
    codec = fit_linear(clips, 5)
    rows = clips.flatten(1)
    u, s, v = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    best = (u[:, :5] * s[:5]) @ v[:5] + rows.mean(0)
    torch.testing.assert_close(codec.reconstruct(clips).flatten(1), best)
    torch.testing.assert_close(codec.basis @ codec.basis.T, torch.eye(5, dtype=torch.float64))


def test_as_many_components_as_clips_span_reconstruct_them_exactly():
    clips = torch.randn(6, 40, dtype=torch.float64)
    torch.testing.assert_close(fit_linear(clips, 100).reconstruct(clips), clips)


def test_small_components_survive_single_precision():
    # Squared, a component 1e-5 times the largest is far below the last digit of a float32 Gram matrix.
    scales = torch.logspace(0, -5, 11)
    clips = torch.randn(12, 11) * scales @ torch.linalg.qr(torch.randn(60, 11)).Q.T
    codec = fit_linear(clips, 11)
    torch.testing.assert_close(codec.basis @ codec.basis.T, torch.eye(11), atol=1e-5, rtol=0)
    torch.testing.assert_close(codec.reconstruct(clips), clips, atol=2e-6, rtol=0)
