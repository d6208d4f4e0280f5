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
