"""The hours and the memory of trainings at published size, from the committed rows of an H200.

    python benchmarks/hours.py

writes the table into docs/published-data.md.
"""

from pathlib import Path

import pandas as pd

CHECKOUT = Path(__file__).resolve().parent.parent
ROWS = CHECKOUT / "reports" / "benchmarks" / "gpu-end-to-end-nvidia-h200.csv"
# title: paper, as the rows name it; images of each phase of the training, by its name there; and
# what the table says of the network, of these images, and of the backbone on an RTX 3090.
TRAININGS = {
    "Xception": (
        ("xception", {"last": 11 * 115_200}),
        ("256 px", "11 epochs × 115,200", "0.7 at 498 per second (`xception`, 299 px)"),
    ),
    "LAE": (
        ("lae", {"before": 15 * 115_200, "last": 5 * 115_200}),
        ("256 px", "15 × 115,200 of phase one, then 5 × 115,200", "–"),
    ),
    "Locate and Verify": (
        ("locate_and_verify", {"last": 30 * 184_320}),
        ("299 px", "30 × 184,320, each through two backbones", "6.2 at 498"),
    ),
    "Exposing the Deception": (
        ("exposing_the_deception", {"last": 20 * 2_184 * 256}),
        ("224 px", "20 × 2,184 batches of 256, through four", "6.1 at 2,037 (`resnet34`)"),
    ),
}
DOCUMENT = "docs/published-data.md"
HEAD = (
    "| network | images of a training | images per second, H200 | hours, H200 | GiB | hours of "
    "the backbone, RTX 3090 |"
)


def measured(paper: str, images: dict[str, int]) -> tuple[str, str, str]:
    """Images per second of each phase, hours of all, and the most GiB of a step, as texts."""
    rows = pd.read_csv(ROWS)
    rows = rows.query("contender == 'tf32' and deterministic and workers == 16 and paper == @paper")
    phases = rows.set_index("phase").loc[list(images)]  # in the order in which they are trained
    speeds = ", then ".join(f"{speed:,.0f}" for speed in phases["images_per_s"])
    hours = (pd.Series(images) / phases["images_per_s"]).sum() / 3600
    return speeds, f"{hours:.1f}", f"{phases['peak_memory_mib'].max() / 1024:.1f}"


def rows() -> list[str]:
    """The lines of the table, below its head and the line under it."""
    lines = []
    for title, (training, (size, images, backbone)) in TRAININGS.items():
        speeds, hours, memory = measured(*training)
        lines.append(f"| {title}, {size} | {images} | {speeds} | {hours} | {memory} | {backbone} |")
    return lines


def with_table(text: str, head: str, lines: list[str]) -> str:
    """A Markdown text in which the table with this head has these rows."""
    before, _, after = text.partition(f"{head}\n")
    line, *others = after.splitlines(keepends=True)  # the line under the head stays
    while others and others[0].startswith("|"):
        others.pop(0)
    return "".join([before, f"{head}\n", line, *(f"{row}\n" for row in lines), *others])


def main() -> None:
    """Write the table into the document."""
    path = CHECKOUT / DOCUMENT
    text = with_table(path.read_text(encoding="utf-8"), HEAD, rows())
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
