"""Small test pictures drawn by formula: a sky, waves, a sun and a pasted-looking block. No photo is needed."""
import numpy as np


def scene(width, height, tint, level, phase):
    """uint8 [height, width, 3]; tint = (r, g, b) weights, level = mean brightness 0..255, phase moves things."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = x / max(width - 1, 1), y / max(height - 1, 1)
    base = 0.35 * (1 - v) + 0.12 * np.sin(9 * u + 5 * v + phase) + 0.08 * np.sin(31 * v * (1 + 0.2 * np.sin(phase)))
    cx, cy = 0.5 + 0.22 * np.cos(phase), 0.45 + 0.2 * np.sin(1.7 * phase)
    aspect = width / height
    sun = ((u - cx) * aspect) ** 2 + (v - cy) ** 2 < (0.16 + 0.04 * np.sin(2.3 * phase)) ** 2
    block = (np.abs(u - 0.8) < 0.12) & (np.abs(v - 0.7 + 0.1 * np.cos(phase)) < 0.16)
    base = base + 0.45 * sun - 0.4 * block
    # a hashed grain, so that neighbouring pixels differ
    grain = np.modf(np.sin(x * 12.9898 + y * 78.233 + phase) * 43758.5453)[0]
    base = base - base.mean()
    rgb = np.empty((height, width, 3))
    for c in range(3):
        rgb[..., c] = level * (1 + 0.9 * base * (1 + 0.3 * np.cos(phase + 2 * c)) + 0.05 * grain) * tint[c]
        rgb[..., c] += 40 * sun * (c == (int(phase * 3) % 3))
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


TINTS = [(1.4, 0.8, 0.8), (0.8, 1.4, 0.8), (0.8, 0.8, 1.4)]          # red, green, blue

# name: (width, height, tint, level, phase); phases picked so that no mask logit lies closer to zero than 3e-5
GOLDEN = {
    "wide": (131, 90, TINTS[0], 80, 1.06), "tall": (75, 160, TINTS[1], 80, 0.22),
    "square": (224, 224, TINTS[2], 185, 3.3), "large": (280, 259, TINTS[2], 70, 0.11)}


def random_scene(rng, bright, hue):
    """A picture for teaching and checking; bright decides the level, hue (0..2) the tint."""
    size = rng.integers(60, 260, 2)
    tint = np.array(TINTS[hue]) * rng.uniform(0.93, 1.07, 3)
    level = rng.uniform(165, 200) if bright else rng.uniform(55, 105)
    return scene(int(size[0]), int(size[1]), tint, level, rng.uniform(0, 6.3))
