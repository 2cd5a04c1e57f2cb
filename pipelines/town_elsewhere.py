"""The two buildings that are no landmarks: a library and a station."""

from __future__ import annotations

from pipelines.town_paint import WHITE, Canvas, Rgb, dim, vary
from pipelines.town_parts import Builder, flat, stones, tiled


def library(b: Builder) -> None:
    """Not among the landmarks: coloured panels round a glass corner."""
    palette: list[Rgb] = [
        (226, 224, 216),
        (58, 140, 160),
        (244, 170, 54),
        (96, 98, 110),
        (186, 214, 120),
    ]

    def panels(c: Canvas) -> None:
        y = 0.0
        while y < c.height:
            x, h = 0.0, float(c.rng.uniform(0.7, 1.3))
            while x < c.width:
                w = float(c.rng.uniform(0.6, 2.4))
                c.rect(x, y, w - 0.05, h - 0.05, vary(c.rng, palette[int(c.rng.integers(5))], 10))
                if c.rng.random() < 0.4:
                    c.window(x + 0.15, y + 0.2, w - 0.35, h - 0.35, "plain", (70, 72, 78))
                x += w
            y += h
        c.sign(1, c.height - 2.2, 5, 1.2, (40, 42, 50), (250, 240, 220), 7)
        c.door(c.width / 2, 2.0, 2.6, (40, 42, 50), (120, 122, 126), arch=False)
        c.mottle(0.08)

    b.box((-8, 3), (-5, 5), (0, 9), panels, panels, flat((120, 120, 120)))
    b.box((3, 8), (-3, 5), (0, 13), panels, panels, flat((120, 120, 120)))


def station(b: Builder) -> None:
    """Not among the landmarks: yellow brick, a great fan window, two short towers."""
    brick: Rgb = (206, 176, 110)

    def hall(c: Canvas) -> None:
        c.courses(0.14, 0.3, brick, 14)
        mid = c.width / 2
        c.rose(mid, 5.6, 2.6, (150, 92, 66))
        for x in (0.8, mid - 1.2, c.width - 3.2):
            c.door(x, 2.4, 2.4, (48, 74, 66), (150, 92, 66), arch=False)
        c.sign(mid - 3.5, 8.7, 7, 0.9, (52, 66, 92), (240, 234, 214), 12)
        c.grime(0.3)

    def tower(c: Canvas) -> None:
        c.courses(0.14, 0.3, dim(brick, 0.95), 14)
        for y in (1.2, 4.4, 7.6):
            c.window(c.width / 2 - 0.6, y, 1.2, 2.0, "arch cross", (70, 92, 84), (150, 92, 66))
        c.clock(c.width / 2, 11.4, 0.9, WHITE, (36, 36, 40))
        c.frieze(10.0, 0.3, (150, 92, 66), (226, 206, 150))
        c.grime(0.3)

    b.box((-5, 5), (-4, 6), (0, 10), hall, stones(brick, 0.14, 0.3), flat(brick))
    b.gable((-5, 5), (-4, 6), (10, 12.5), tiled((88, 96, 104)), flat(brick), along="y")
    for x in (-9.0, 5.0):
        b.box((x, x + 4), (-5, 0), (0, 13), tower, tower, flat(brick))
        b.ring(4, (x + 2, -2.5), (3.0, 0.0), (13, 16), tiled((110, 66, 56)))
