"""Cut the embedded section into blocks with masks: the data of the demo.

The section is ``skimage.data.immunohistochemistry()``: colon tissue, nuclei blue (haematoxylin), one
protein brown (DAB). Truth for every pixel is made from the colour: the DAB channel of a colour
deconvolution, smoothed, above Otsu's threshold of the whole section. So a colour rule alone scores
high here; the demo shows that rule beside the networks.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.color import rgb2hed
from skimage.data import immunohistochemistry
from skimage.filters import gaussian, threshold_otsu

SMOOTHING = 2.0
BLOCK = 128


def main(folder: Path) -> None:
    """Write ``train/`` (left half) and ``audit/`` (right half), each with images and masks."""
    section = immunohistochemistry()
    stain = gaussian(rgb2hed(section)[..., 2], sigma=SMOOTHING)
    brown = stain > threshold_otsu(stain)
    middle = section.shape[1] // 2
    for name, columns in (("train", range(0, middle, BLOCK)), ("audit", range(middle, 2 * middle, BLOCK))):
        for row in range(0, section.shape[0], BLOCK):
            for column in columns:
                cut = np.s_[row : row + BLOCK, column : column + BLOCK]
                _write(folder / name / "images", f"block_{row}_{column}.png", section[cut])
                _write(
                    folder / name / "masks", f"block_{row}_{column}.png", brown[cut].astype(np.uint8) * 255
                )


def _write(folder: Path, name: str, pixels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
