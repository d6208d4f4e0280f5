import inspect

import pytest

from tools.registry import Registry


@pytest.fixture
def samplers():
    registry = Registry("sampler")

    @registry.register("ddim")
    def ddim(x, *, eta=0.0, rederive=False):
        return x, eta, rederive

    @registry.register("Heun")
    class Heun:
        def __init__(self, x, *, churn):
            self.x, self.churn = x, churn

    return registry


def test_bind_fixes_options_and_leaves_runtime_arguments_open(samplers):
    assert samplers.bind({"name": "ddim", "eta": 1.0})("x") == ("x", 1.0, False)
    assert samplers.bind("ddim")("x") == ("x", 0.0, False)
    heun = samplers.bind({"name": "Heun", "churn": 3})("x")
    assert (heun.x, heun.churn) == ("x", 3)


def test_options_are_the_keyword_only_parameters(samplers):
    assert samplers.options("ddim") == {"eta": 0.0, "rederive": False}
    assert samplers.options("Heun") == {"churn": inspect.Parameter.empty}


@pytest.mark.parametrize("call, words", [
    (lambda r: r.get("dimd"), ['unknown sampler "dimd"', '"ddim"', "known: Heun, ddim"]),
    (lambda r: r.get("HEUN"), ['did you mean "Heun"']),
    (lambda r: r.get("zzz"), ["known: Heun, ddim"]),
    (lambda r: r.bind({"name": "ddim", "etta": 1}), ['no option "etta"', '"eta"', "valid: eta, rederive"]),
    (lambda r: r.bind({"name": "ddim", "x": 1}), ['no option "x"']),  # a runtime argument is no option
    (lambda r: r.bind({"eta": 1}), ["needs a name", "eta"]),
])
def test_errors_are_one_line_with_the_nearest_name(samplers, call, words):
    with pytest.raises(ValueError) as error:
        call(samplers)
    assert "\n" not in str(error.value) and all(w in str(error.value) for w in words)


def test_behaves_like_a_collection(samplers):
    assert "ddim" in samplers and "ddpm" not in samplers
    assert list(samplers) == ["ddim", "Heun"] and len(samplers) == 2


def test_one_name_cannot_be_taken_twice(samplers):
    with pytest.raises(AssertionError):
        samplers.register("ddim")(print)
