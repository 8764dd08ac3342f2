"""The light augmentation of a whole batch at once: image by image takes ten times as long."""

import torch
from torch import Tensor
from torch.nn.functional import pad

DRAWS = 6  # random numbers per image: mirror, shift right, shift down, three changes of colour
SHIFT = 1 / 16  # of the image's side, at most
CHANGE = 0.2  # of brightness, contrast and saturation, at most
GREY = (0.299, 0.587, 0.114)  # shares of red, green, blue in grey


def light(batch: dict[str, Tensor], draws: Tensor) -> dict[str, Tensor]:
    """Mirror (p .5), shift by up to 1/16 of the side, change colours by up to 20 %.

    Returns the batch with a new image (float32 in [0, 255]), mask and landmarks; its other entries
    stay.

    Args:
        batch: With ``image`` (B, 3, S, S) uint8, ``mask`` (B, 1, S, S) uint8, 0 or 1, and
            ``landmarks`` (B, 5, 2), x and y in pixels, which are moved alike. In a mirrored image
            the landmarks keep their order, deliberately: the person's right eye stays the first,
            see :class:`dfnb.papers.contract.Batch`. The pixels that a shift leaves empty become
            black in the image and 0, not forged, in the mask.
        draws: (B, 6) float64 in [0, 1), independent and uniform, in the order of :data:`DRAWS`.
    """
    side = batch["image"].shape[-1]
    is_mirrored = draws[:, 0] < 0.5
    directions = 2 * draws[:, 1:3] - 1  # (B, 2) from -1 to 1: to the left or right, up or down
    shifts = (directions * SHIFT * side).round().int()  # in whole pixels
    strengths = 2 * draws[:, 3:].float() - 1  # (B, 3) from -1 to 1
    changes = 1 + CHANGE * strengths  # factors from 0.8 to 1.2
    together = torch.cat([batch["image"], batch["mask"]], dim=1)
    moved = move(together, is_mirrored, shifts)
    image = moved[:, :3].float()
    x, y = batch["landmarks"].unbind(dim=-1)
    x = torch.where(is_mirrored[:, None], side - 1 - x, x)
    landmarks = torch.stack([x, y], dim=-1)
    return {
        **batch,
        "image": change_colours(image, changes),
        "mask": moved[:, 3:],
        "landmarks": landmarks + shifts[:, None],  # right adds to x, down to y
    }


def move(images: Tensor, is_mirrored: Tensor, shifts: Tensor) -> Tensor:
    """Mirror some images (B, C, S, S), then shift all by (B, 2) pixels, to the right and down.

    ``is_mirrored`` (B,) says which are mirrored. A negative shift goes to the left or up. Pixels
    without a source become 0.
    """
    is_mirrored = is_mirrored[:, None, None, None]
    mirrored = torch.where(is_mirrored, images.flip(-1), images)
    moved = []
    # Image by image, because each is moved by a shift of its own.
    for image, (right, down) in zip(mirrored, shifts.tolist()):
        # Columns on the left and right, rows above and below; pad cuts off where it is negative.
        margins = (right, -right, down, -down)
        moved.append(pad(image, margins))
    return torch.stack(moved)


def change_colours(images: Tensor, changes: Tensor) -> Tensor:
    """Multiply brightness, then contrast, then saturation of images (B, 3, S, S) in [0, 255].

    They are floats. The result is clipped to this range at the end, and not rounded.

    The factors are ``changes`` (B, 3). With brightness b, contrast c, saturation s, grey level g of
    a pixel x, and the image's mean grey level m:

        x₁ = b x,  x₂ = c x₁ + (1 - c) b m,  x₃ = s x₂ + (1 - s) g(x₂)
           = b c (s x + (1 - s) g) + (1 - c) b m

    The last line is what is computed; it follows from g(x₂) = c b g + (1 - c) b m.
    """
    factors = changes[:, :, None, None, None]
    brightness, contrast, saturation = factors.unbind(1)  # (B, 1, 1, 1) each
    shares = images.new_tensor(GREY).view(3, 1, 1)
    grey = (images * shares).sum(dim=1, keepdim=True)  # g of the unchanged images, (B, 1, S, S)
    mean_grey = grey.mean(dim=(2, 3), keepdim=True)
    saturated = saturation * images + (1 - saturation) * grey
    brighter = brightness * contrast * saturated
    greyer = (1 - contrast) * brightness * mean_grey
    return (brighter + greyer).clamp(0, 255)
