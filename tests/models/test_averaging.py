"""The mean of the past in its three forms, against the notebook's outputs and one another."""

import pytest
import torch
from torch import Tensor

import hornbook as hb

FORMS = [hb.average_loop, hb.average_matrix, hb.average_softmax]

# The lecture notebook's own output, to the four places it prints.
NOTEBOOK_MEAN = [
    [0.1808, -0.0700],
    [-0.0894, -0.4926],
    [0.1490, -0.3199],
    [0.3504, -0.2238],
    [0.3525, 0.0545],
    [0.0688, -0.0396],
    [0.0927, -0.0682],
    [-0.0341, 0.1332],
]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 8, 2, generator=torch.Generator().manual_seed(1337))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_notebooks_means(form, x: Tensor) -> None:
    torch.testing.assert_close(x[0, 0], torch.tensor([0.1808, -0.0700]), atol=5e-5, rtol=0)
    torch.testing.assert_close(form(x)[0], torch.tensor(NOTEBOOK_MEAN), atol=5e-5, rtol=0)


def test_the_forms_agree_but_for_rounding_which_is_what_allclose_stumbles_on(x: Tensor) -> None:
    loop, matrix, softmax = (form(x) for form in FORMS)
    assert 0 < (loop - matrix).abs().max() < 3.3e-8
    assert not torch.allclose(loop, matrix)
    assert torch.allclose(loop, matrix, atol=1e-7)
    torch.testing.assert_close(matrix, softmax, atol=1e-7, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 3), (3, 33, 4)])
def test_in_float64_the_forms_agree_to_its_rounding(shape: tuple[int, int, int]) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loop, matrix, softmax = (form(x) for form in FORMS)
    assert matrix.dtype == softmax.dtype == torch.float64
    torch.testing.assert_close(matrix, loop, atol=1e-15, rtol=1e-14)
    torch.testing.assert_close(softmax, loop, atol=1e-15, rtol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_future_leaves_the_past_alone(form, x: Tensor) -> None:
    changed = x.clone()
    changed[:, 5] += 1
    assert torch.equal(form(x)[:, :5], form(changed)[:, :5])
    assert not torch.equal(form(x)[:, 5:], form(changed)[:, 5:])


def test_the_weights_are_rows_of_equal_shares() -> None:
    third = 1 / 3
    expected = torch.tensor([[1, 0, 0], [0.5, 0.5, 0], [third, third, third]])
    torch.testing.assert_close(hb.average_weights(3), expected)


def test_the_notebooks_three_by_three_product() -> None:
    b = torch.tensor([[2.0, 7.0], [6.0, 4.0], [6.0, 5.0]])
    c = hb.average_weights(3) @ b
    expected = torch.tensor([[2, 7], [4, 5.5], [4.6667, 5.3333]])
    torch.testing.assert_close(c, expected, atol=5e-5, rtol=0)


def test_the_average_rung_adds_the_mean_of_the_past_and_nothing_else() -> None:
    torch.manual_seed(0)
    config = hb.preset("average").model
    model = hb.AverageLanguageModel(config, vocab_size=11)
    # Only the order of the past is changed, so a bag of characters ends in the same place.
    one, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[3, 1, 2, 4]])
    torch.testing.assert_close(model(one)[0][:, -1], model(other)[0][:, -1])
    assert not torch.allclose(model(one)[0][:, 1], model(other)[0][:, 1])
