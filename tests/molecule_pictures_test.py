"""Pictures of molecules: balls, sticks, formulas and films."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from demetar.errors import UserError
from demetar.visual import animation, balls, molecules
from tests import stability_test as known

RED, BLUE = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
LIMITS = np.array([[-2.0, -1.0], [2.0, 1.0]])
RIGHT, NOTHING = np.array([1.0, 0.0, 0.0]), np.zeros(3)


def painted(canvas):
    """[h, w] whether red, and whether blue: the white of fog and gloss aside."""
    image = canvas.image().astype(int)
    is_red = image[..., 0] > image[..., 2] + 20
    return is_red, image[..., 2] > image[..., 0] + 20


def test_a_ball_has_its_size_and_place():
    canvas = balls.Canvas(LIMITS, 50)
    canvas.add_ball(RIGHT, 0.5, RED)
    red, blue = painted(canvas)
    assert red.shape == (100, 200) and not blue.any()
    assert red.sum() == pytest.approx(np.pi * 25**2, rel=0.03)
    np.testing.assert_allclose(np.argwhere(red).mean(axis=0), [49.5, 149.5], atol=0.5)


@pytest.mark.parametrize("order", [1, -1])
def test_the_nearer_hides_the_further(order):
    near, far = np.array([0, 0, 1.0]), np.array([0, 0, -1.0])
    canvas = balls.Canvas(LIMITS, 20)
    for center, color in [(near, RED), (far, BLUE)][::order]:
        canvas.add_ball(center, 0.5, color)
    red, blue = painted(canvas)
    assert red.any() and not blue.any()


def test_a_stick_is_as_long_as_it_is_seen():
    canvas = balls.Canvas(LIMITS, 50)
    canvas.add_stick(NOTHING, np.array([1.0, 0.0, 5.0]), 0.1, BLUE)
    canvas.add_stick(NOTHING, np.array([0.0, 0.0, 1.0]), 0.1, RED)  # from its end
    red, blue = painted(canvas)
    assert not red.any()
    rows, columns = np.argwhere(blue).T
    assert np.ptp(rows) == pytest.approx(10, abs=2)
    assert columns.max() == pytest.approx(150, abs=6)
    canvas.add_disc(RIGHT, 0.1, RED)  # behind
    canvas.add_ball(RIGHT, 0.2, BLUE)
    assert not painted(canvas)[0].any()


def test_formulas_have_hills_order():
    assert molecules.formula(np.array([8, 1, 6, 1, 1, 6, 7, 1])) == "C₂H₄NO"
    assert molecules.formula(np.array([9, 1])) == "FH"
    assert molecules.formula(np.array([1] * 12)) == "H₁₂"


def words(figure):
    return [text.get_text().strip() for axes in figure.axes for text in axes.texts]


def has_spot(axes):
    color = (255 * molecules._SPOT_COLOR).round()
    return bool((pixels(axes) == color).all(axis=-1).any())


def pixels(axes):
    return np.asarray(axes.images[0].get_array())


def test_a_gallery_tells_what_is_stable():
    found = known.together(known.METHANE, known.BROKEN, known.CARBON_DIOXIDE)
    figure = molecules.gallery(found, "three", columns=2)
    assert words(figure) == [
        *("CH₄", "● stable", "CH₄", "● not stable", "CO₂", "● stable")
    ]
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 0]
    spots = [has_spot(axes) for axes in figure.axes[:3]]
    assert spots == [False, True, False]
    other = found._replace(numbers=found.numbers + 10)
    with pytest.raises(UserError, match="H, C, N, O, F"):
        molecules.gallery(other)


def test_a_molecule_that_fell_apart_makes_the_others_no_smaller():
    whole = known.together(*[known.METHANE] * 3)
    apart = whole._replace(positions=whole.positions.copy())
    apart.positions[-1] += 100
    widths = []
    for structures in (whole, apart):
        images = [axes.images[0] for axes in molecules.gallery(structures).axes[:3]]
        widths.append([np.ptp(image.get_extent()[:2]) for image in images])
    assert (np.array(widths[1][:2]) < 2 * np.array(widths[0][:2])).all()
    assert widths[1][2] > 100


def frames_of(count):
    molecule = known.together(known.METHANE)
    noise = np.random.default_rng(0).normal(size=molecule.positions.shape)
    return [
        (time, molecule._replace(positions=molecule.positions + time * noise + 7))
        for time in np.linspace(1, 0, count)
    ]


def test_a_molecule_forms_in_panels_of_one_scale():
    figure = molecules.forming(frames_of(5), columns=3)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["t = 1.00", "t = 0.75", "t = 0.50", "t = 0.25", "t = 0.00", ""]
    assert words(figure) == ["CH₄", "● stable"]
    assert len({pixels(axes).shape for axes in figure.axes[:5]}) == 1


def test_a_film_ends_with_a_turn(monkeypatch):
    monkeypatch.setattr(molecules, "_TURN", 4)
    figures, times = molecules.film(frames_of(3), "film", milliseconds=50)
    assert times == [900, 50, 900, 50, 50, 50]
    with Image.open(io.BytesIO(animation.encode(figures, times, colors=32))) as film:
        frames = ImageSequence.Iterator(film)
        turned = [np.asarray(frame.convert("RGB")) for frame in frames]
    assert len(turned) == 6
    borders = [picture[50:, column] for picture in turned for column in (0, -1)]
    assert min(border.min() for border in borders) == 255  # nothing is cut
    assert (turned[3] != turned[2]).any()
