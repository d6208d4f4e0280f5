"""From a network to `denoise`: labels, guidance and PVDM's form."""

import pytest
import torch

from autoencoder.planes import PlaneShape
from latent_diffusion.condition import CONDITIONS, Context
from latent_diffusion.denoiser import LatentDenoiser, PastForm, make_denoise
from latent_diffusion.guidance import Views, steered
from latent_diffusion.process import ProcessConfig, add_noise, target
from latent_diffusion.samplers import heun
from latent_diffusion.schedule import ScheduleConfig, level_at, sampling_levels
from latent_diffusion.unet import UNetConfig
from latent_diffusion.window import WindowContext

SHAPE = PlaneShape(2, 4, 4)
COSINE = ScheduleConfig(name="cosine")
LEVEL = level_at(COSINE, 0.5)
UNET = UNetConfig(width=16, mult=(1,), res_blocks=1, attention=(1,), heads=2, zero_out=False)


def make_net(frames=2, **condition):
    torch.manual_seed(0)
    return LatentDenoiser(UNET, {"name": "concat", **condition}, SHAPE, 3, frames).eval()


def past(batch=2, seed=1):
    latent = torch.randn(batch, 1, 3, SHAPE.total, generator=torch.Generator().manual_seed(seed))
    return Context(latent, torch.ones(batch, 1, 2, dtype=torch.bool))


class Oracle(torch.nn.Module):
    """Says exactly what the training target is, for data x0 and the noise that it finds in z."""

    def __init__(self, x0, schedule, parametrisation):
        super().__init__()
        self.x0, self.schedule, self.parametrisation = x0, schedule, parametrisation

    def prepare(self, context, like, keep=False):
        return context

    def forward(self, z, t, context=None):
        level = level_at(self.schedule, t)
        noise = (z - level.alpha[:, None, None] * self.x0) / level.sigma[:, None, None]
        return target(self.x0, noise, level, self.parametrisation)


@pytest.mark.parametrize("parametrisation", ["eps", "x0", "v", "flow"])
@pytest.mark.parametrize("schedule, t", [(ScheduleConfig(name="sqrt_linear"), 500.0), (COSINE, 0.6)])
def test_whatever_is_predicted_denoise_gives_data_and_noise(parametrisation, schedule, t):
    x0, noise = torch.randn(2, 2, 3, SHAPE.total)
    level = level_at(schedule, t)
    denoise = make_denoise(Oracle(x0, schedule, parametrisation), parametrisation, None)
    made = denoise(add_noise(x0, noise, level), level)
    torch.testing.assert_close(made.x0, x0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.eps, noise, atol=1e-4, rtol=1e-4)


def test_samples_of_a_batch_do_not_meet():
    net, x, level = make_net(), torch.randn(3, 3, SHAPE.total), LEVEL
    together = make_denoise(net, "v", past(3))(x, level).x0
    for i in range(3):
        alone = make_denoise(net, "v", Context(past(3).latents[i:i + 1], past(3).known[i:i + 1]))(x[i:i + 1], level).x0
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)


def test_autocast_runs_the_network_alone():
    net, x, level = make_net(), torch.randn(2, 3, SHAPE.total), LEVEL
    narrow, wide = (make_denoise(net, "v", None, autocast=on)(x, level) for on in (True, False))
    assert narrow.x0.dtype == torch.float32
    torch.testing.assert_close(narrow.x0, wide.x0, atol=0.1, rtol=0.1)
    assert not torch.equal(narrow.x0, wide.x0)


@pytest.mark.parametrize("parametrisation, schedule", [("v", COSINE), ("eps", ScheduleConfig(name="linear"))])
def test_pvdms_form_says_the_noise_whatever_is_predicted(parametrisation, schedule):
    net, x, context = make_net(mask=True), torch.randn(2, 3, SHAPE.total), past()
    form = PastForm(net, schedule, ProcessConfig(parametrisation=parametrisation))
    t = torch.tensor([300.0, 700.0]) if schedule.discrete else torch.tensor([0.3, 0.7])
    with torch.no_grad():
        for given, latent in ((context, context.latents[:, 0]), (None, None)):
            eps = form(x, t, latent)
            for i in range(2):
                row = Context(given.latents[i:i + 1], given.known[i:i + 1]) if given else None
                wanted = make_denoise(net, parametrisation, row)(x[i:i + 1], level_at(schedule, float(t[i]))).eps
                torch.testing.assert_close(eps[i:i + 1], wanted, atol=1e-5, rtol=1e-4)


def test_pvdms_form_refuses_what_it_cannot_say():
    with pytest.raises(ValueError, match="past, self"):
        PastForm(make_net(sees=["past", "self"], mask=True), ScheduleConfig(), ProcessConfig())
    form = PastForm(make_net(sees=[]), COSINE, ProcessConfig())
    x, t = torch.randn(1, 3, SHAPE.total), torch.tensor([0.5])
    assert form(x, t).shape == x.shape
    with pytest.raises(ValueError, match="without a condition"):
        form(x, t, x)


def test_which_frames_are_known_reaches_the_network_by_its_embedding():
    net = make_net(4, sees=["past", "self"], mask=True)
    z, t = torch.randn(1, 3, SHAPE.total), torch.tensor([0.5])
    given = Context(torch.zeros(1, 2, 3, SHAPE.total), torch.tensor([[[False] * 4, [True, False, False, True]]]))
    other = given._replace(known=torch.tensor([[[False] * 4, [False, True, True, False]]]))  # the same share of every row
    assert torch.equal(net.condition.beside(given), net.condition.beside(other))
    assert torch.equal(net(z, t, given), net(z, t, other))  # silent at first
    torch.nn.init.normal_(net.mask_embed[-1].weight)
    assert not torch.allclose(net(z, t, given), net(z, t, other))
    assert torch.equal(net(z, t, None), net(z, t, net.condition.nothing(1, z.device)))


PLACES = ["anchor", "past", "self", "future"]
EVERYTHING = dict(sees=PLACES, mask=True, null_token=True, history=True, residual=True)
WINDOW = dict(slots=2, null_token=True, history=True)
NEIGHBOURS = [name for name in CONDITIONS if name != "window"]  # those that make one clip at a time


def every_net(name, **unet):
    """A network with all that its condition can have."""
    torch.manual_seed(0)
    options = {"unet": UNetConfig(**vars(UNET) | {"mult": (1, 2), "positional_norm": True, "canvas": True} | unet)}
    net = LatentDenoiser(options["unet"], {"name": name, **(EVERYTHING if name in NEIGHBOURS else WINDOW)}, SHAPE, 3, 4)
    for p in net.parameters():
        if not p.any():  # what is silent at first
            torch.nn.init.normal_(p, std=0.3)
    return net.eval()


def noisy(net):
    return torch.randn(2, *([2] if net.condition.observes else []), 3, SHAPE.total)


def every_context(net, batch=2):
    """Around one clip; of a window, two known clips before the two that are made."""
    rng = torch.Generator().manual_seed(1)
    context = Context(torch.randn(batch, 4, 3, SHAPE.total, generator=rng), torch.rand(batch, 4, 4, generator=rng) < 0.3)
    context.known[0, 1] = False
    if net.condition.observes:
        context.known[:, :2], context.known[:, 2:, 0] = True, False
        context = WindowContext(*context[:2], torch.tensor([[0.0, 20, 3, 7]] * 2), torch.ones(2, 4, dtype=torch.bool))
    level = torch.rand(batch, 4, generator=rng)
    return net.condition.noised(context, level, torch.randn(context.latents.shape, generator=rng))


def guided(net, context, weight):
    """Away from what the network says where nothing is known, as a completion has it."""
    full, nothing = (make_denoise(net, "x0", seen) for seen in (context, net.condition.unseen(context)))
    return steered(Views(full, nothing, full, nothing), weight, 0.0)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", CONDITIONS)
def test_a_context_read_once_says_the_same_as_one_read_each_time(name, autocast):
    net = every_net(name)
    x = noisy(net)
    for context in (every_context(net), None):
        denoise = make_denoise(net, "x0", context, autocast=autocast)
        for t in (0.9, 0.5, 0.1):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                anew = net(x, torch.full((2,), t), context)
            assert torch.equal(denoise(x, level_at(COSINE, t)).x0, anew.float())


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_what_depends_on_the_context_alone_is_made_once_a_clip(name):
    net, calls = every_net(name), []
    x = noisy(net)
    once = [net.mask_embed, net.level_embed, *net.condition.children(),
            *(m for key, m in net.unet.named_modules() if key.endswith(("adapt.0", "adapt.1", "motion")))]
    for module in once:
        module.register_forward_hook(lambda module, *_: calls.append(module))
    uses = {id(m): 3 if m in list(net.condition.children()) else len(net.unet.groups) if m not in once[:2] else 1 for m in once}
    heun(guided(net, every_context(net), 1.5), x, sampling_levels(COSINE, 4), torch.randn_like)
    for module in once:  # on every plane or sheet, with the context and without one
        assert calls.count(module) == 2 * uses[id(module)]


@pytest.mark.parametrize("name", CONDITIONS)
def test_guidance_knows_two_contexts(name):
    net = every_net(name)
    x, context = noisy(net), every_context(net)
    t, blank = torch.full((2,), 0.5), net.condition.nothing(2, x.device)
    if net.condition.observes:
        blank = blank._replace(start=context.start[:, 2:])  # of the clips that are made, where they are
    with torch.no_grad():
        cond, uncond = (net(x, t, seen) for seen in (context, blank))
    torch.testing.assert_close(guided(net, context, 1.5)(x, LEVEL).x0, 2.5 * cond - 1.5 * uncond)
    assert not torch.allclose(cond, uncond)


@pytest.mark.parametrize("name", CONDITIONS)
def test_gradient_reaches_every_parameter(name):
    net = every_net(name)
    x = noisy(net)
    net(x, torch.tensor([0.3, 0.8]), every_context(net)).square().sum().backward()
    net(x, torch.tensor([0.3, 0.8]), None).square().sum().backward()
    silent = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("name", CONDITIONS)
def test_knowing_nothing_is_the_context_of_nothing(name):
    net, t = every_net(name), torch.tensor([0.3, 0.8])
    x = noisy(net)
    nothing = net.condition.nothing(2, x.device)
    assert torch.equal(net(x, t, None), net(x, t, nothing))
    net.condition.null_token.data += 1.0
    assert not torch.allclose(net(x, t, None), net(x, t, nothing._replace(known=~nothing.known)))


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_residual_is_added_to_the_filled_clip(name):
    net, t = every_net(name), torch.tensor([0.3, 0.8])
    x = noisy(net)
    context, places = every_context(net), list(net.condition.sees)
    before = net(x, t, context)
    net.condition.residual = False
    torch.testing.assert_close(before - net(x, t, context), context.latents[:, places.index("self")])


def test_the_noise_of_each_place_reaches_the_network_by_its_embedding():
    torch.manual_seed(0)
    net = LatentDenoiser(UNET, {"name": "concat", "sees": PLACES, "mask": True, "history": True}, SHAPE, 3, 4).eval()
    z, t = torch.randn(1, 3, SHAPE.total), torch.tensor([0.5])
    given = Context(torch.randn(1, 4, 3, SHAPE.total), torch.ones(1, 4, 4, dtype=torch.bool))
    told = [given._replace(level=level) for level in (torch.zeros(1, 4), 0.2 * torch.eye(4)[:1], 0.2 * torch.eye(4)[1:2])]
    assert torch.equal(net(z, t, told[1]), net(z, t, given))  # silent at first
    torch.nn.init.normal_(net.level_embed[-1].weight)
    clean, first, second = (net(z, t, seen) for seen in told)
    assert torch.equal(clean, net(z, t, given))  # clean by default
    assert not torch.allclose(first, clean) and not torch.allclose(first, second)
    assert torch.equal(net(z, t, given._replace(level=0.2)), net(z, t, given._replace(level=torch.full((1, 4), 0.2))))
