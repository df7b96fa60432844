import pytest

from ovparts_lib.training.schedules import learning_rate_factor, linear_warmup


@pytest.mark.parametrize("step", [0, 1, 777, 10_000, 19_999])
def test_poly_follows_its_formula(step):
    expected = (1 - step / 20_000) ** 0.9
    assert learning_rate_factor(step, 20_000, power=0.9) == pytest.approx(expected, rel=1e-12)


def test_poly_starts_at_one_and_falls_to_almost_nothing():
    assert learning_rate_factor(0, 20_000) == 1.0
    assert learning_rate_factor(19_999, 20_000) == pytest.approx(20_000**-0.9, rel=1e-9)


# Learning rates that OVSeg's released schedule gives for base 6e-5, 120,000 iterations and 1,500 of warm-up.
@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 6.0e-11),
        (1, 4.006e-8),
        (750, 2.983e-5),
        (1_499, 5.929e-5),
        (1_500, 5.932e-5),
        (60_000, 3.215e-5),
        (119_999, 1.610e-9),
    ],
)
def test_poly_with_warmup_gives_the_released_rates(step, rate):
    assert 6e-5 * learning_rate_factor(step, 120_000, power=0.9, warmup=1_500) == pytest.approx(rate, rel=2e-4)


# The formula of PartCATSeg's released configuration, base 2e-4 over 20,000 iterations, at points where it is exact.
@pytest.mark.parametrize(
    ("step", "factor"), [(0, 1.0), (5_000, 0.5 + 0.5**1.5), (10_000, 0.5), (15_000, 0.5 - 0.5**1.5)]
)
def test_cosine_follows_its_formula(step, factor):
    assert learning_rate_factor(step, 20_000, schedule="cosine") == pytest.approx(factor, abs=1e-12)


def test_warmup_of_no_steps_changes_nothing():
    assert linear_warmup(0, 0) == 1.0
