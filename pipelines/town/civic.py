"""Landmarks of the old town: church, town hall, gate, fountain and guildhall."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from pipelines.town.paint import GLASS, IRON, WHITE, Canvas, dim, palette, vary
from pipelines.town.parts import Builder, flat, stones, tiled


def church(b: Builder) -> None:
    """Sandstone, a tower with clock and spire beside a nave with a rose window."""
    stone, trim = (196, 172, 132), (222, 208, 178)

    def front(c: Canvas) -> None:
        c.courses(0.34, 0.75, stone, 15, mottle=0.15)
        c.rose(5.0, 8.4, 1.6, trim)
        c.door(3.9, 2.2, 3.9, (108, 62, 38), trim, arch=True)
        for x in (1.3, 7.7):
            c.window(x, 2.2, 1.0, 3.6, "arch lead", dim(trim, 0.8), trim)
        c.frieze(5.95, 0.45, (170, 146, 104), (110, 66, 52))
        c.quoins(trim)
        c.grime(0.3)

    def side(c: Canvas) -> None:
        c.courses(0.34, 0.75, stone, 15, mottle=0.2)
        for i in range(int(c.width / 3)):
            c.window(1.0 + 3 * i, 2.0, 1.1, 3.8, "arch lead", dim(trim, 0.8), trim)
            c.rect(2.55 + 3 * i, 0, 0.5, 6.2, vary(c.rng, trim, 6))
        c.ivy(c.width * 0.75, 4.5, 1.4)
        c.grime()

    def tower(c: Canvas) -> None:
        c.courses(0.38, 0.8, dim(stone, 0.97), 17, mottle=0.18)
        c.window(c.mid - 0.6, 2.0, 1.2, 2.6, "arch lead", trim, trim)
        c.window(c.mid - 0.4, 6.3, 0.8, 1.8, "arch", trim, trim)
        c.clock(c.mid, 10.6, 1.15, (30, 52, 92), (236, 206, 120))
        for x in (c.mid - 1.35, c.mid + 0.25):
            c.window(x, 12.9, 1.1, 2.7, "arch grid", dim(trim, 0.6), trim)
        for y in (5.4, 8.9, 12.2):
            c.frieze(y, 0.3, trim, (150, 96, 66))
        c.quoins(trim, 0.6)
        c.grime()

    b.gable_front((-3, 7), -5, (7, 12.6), front)
    b.wall((7, -5), (7, 11), (0, 7), side)
    b.wall((-3, 11), (-3, -5), (0, 7), side)
    b.gable((-3, 7), (-5, 11), (7, 12.6), tiled((150, 74, 50)), flat(stone), along="y", over=0.35)
    b.box((-8, -3), (-6, -1), (0, 16.3), tower, tower, flat((120, 120, 120)))
    b.ring(4, (-5.5, -3.5), (3.9, 0.0), (16.3, 24.0), tiled((72, 118, 104), 0.3, 14))


def town_hall(b: Builder) -> None:
    """White plaster over red arcades, a stepped storey of banners, a clock turret."""
    plaster, red = (232, 222, 198), (158, 62, 50)

    def front(c: Canvas) -> None:
        c.coat(plaster, 0.07)
        for i in range(5):
            c.door(0.9 + 3.5 * i, 2.1, 3.3, (70, 60, 56), red, arch=True)
            c.window(1.05 + 3.5 * i, 5.0, 1.6, 2.2, "grid lintel flowers", WHITE, red)
            c.window(1.2 + 3.5 * i, 8.7, 1.3, 1.5, "cross", WHITE, red)
        c.frieze(3.85, 0.5, (214, 184, 96), (52, 70, 120))
        c.frieze(7.75, 0.35, red, (232, 206, 150))
        for i in range(4):
            x, rgb = 3.25 + 3.5 * i, c.color()
            c.rect(x, 4.9, 0.75, 2.6, rgb)
            c.poly([(x, 4.9), (x + 0.375, 4.5), (x + 0.75, 4.9)], dim(rgb, 0.8))
            c.disc(x + 0.375, 6.5, 0.27, c.color())
            c.glyphs(x + 0.06, 5.2, 0.63, 0.5, 2, WHITE)
        c.quoins(red)
        c.grime(0.25)

    def side(c: Canvas) -> None:
        c.coat(dim(plaster, 0.96), 0.09)
        for i in range(3):
            c.window(0.8 + 3.2 * i, 1.2, 1.4, 2.0, "grid shutters", WHITE, red)
            c.window(0.8 + 3.2 * i, 5.0, 1.4, 2.2, "grid lintel", WHITE, red)
            c.window(0.9 + 3.2 * i, 8.7, 1.2, 1.5, "cross", WHITE, red)
        c.frieze(3.85, 0.5, (214, 184, 96), (52, 70, 120))
        c.posters(0.6, 0.4, 2.2, 3)
        c.grime(0.3)

    def turret(c: Canvas) -> None:
        c.courses(0.2, 0.5, red, 13)
        c.quoins(plaster, 0.4)
        c.clock(c.mid, 2.6, 1.0, WHITE, (30, 30, 36))
        c.frieze(0.5, 0.5, plaster, (60, 80, 120))
        c.window(c.mid - 0.6, 4.2, 1.2, 1.2, "arch", WHITE, plaster)

    def roof(c: Canvas) -> None:
        c.tiles(0.34, (96, 84, 92), 13)
        for i in range(4):
            x = 2.2 + c.width / 4 * i
            c.poly([(x - 0.3, 1.1), (x + 1.7, 1.1), (x + 0.7, 3.2)], red)
            c.window(x, 1.2, 1.4, 1.0, "cross", WHITE)

    b.box((-9, 9), (-4.5, 5.5), (0, 11), front, side, flat(plaster))
    b.gable((-9, 9), (-4.5, 5.5), (11, 15.5), roof, stones(red, 0.2, 0.5), over=0.5)
    b.box((-2, 2), (-5.0, -1.4), (11, 17.4), turret, turret, flat(plaster))
    b.ring(4, (0, -3.2), (3.1, 0.0), (17.4, 22.0), tiled((70, 126, 110), 0.28))


def old_gate(b: Builder) -> None:
    """Two eight-sided towers of gray rubble with battlements and a painted arch between them."""
    stone = (146, 142, 136)
    merlon = partial(Canvas.courses, course=0.3, long=0.45, rgb=stone, by=20)

    def tower(c: Canvas) -> None:
        c.courses(0.42, 0.62, stone, 22, gap=0.03, mottle=0.22)
        for y in (2.4, 6.0, 9.4):
            if c.rng.random() < 0.75:
                c.rect(c.mid - 0.35, y - 0.2, 0.7, 1.7, dim(stone, 1.25))
                c.rect(c.mid - 0.13, y, 0.26, 1.3, (28, 26, 26), 60)
        if c.rng.random() < 0.5:
            c.ivy(c.mid, c.rng.uniform(3, 8), 0.9)
        if c.rng.random() < 0.5:
            c.sign(c.mid - 0.7, 4.3, 1.4, 1.1, (172, 40, 38), (240, 214, 120), 2)
        c.speckle(c.mid, 9, 1.0, (196, 168, 90), 40, 0.1)
        c.grime(0.4)

    def crown(c: Canvas) -> None:
        c.courses(0.3, 0.5, dim(stone, 1.1), 16)
        c.frieze(0.1, 0.4, dim(stone, 0.7), dim(stone, 1.3))

    def arch(c: Canvas) -> None:
        c.courses(0.36, 0.8, (176, 160, 134), 16, mottle=0.15)
        colors = palette("264070 cca03c b03a2c e8dec4 3a7054")
        c.mural(0.5, 6.6, c.width - 1.0, 3.0, colors)
        c.door(c.mid - 2.0, 4.0, 5.2, (58, 42, 34), (206, 190, 160), arch=True)
        for i in range(7):  # portcullis
            c.rect(c.mid - 1.8 + 0.56 * i, 3.0, 0.12, 2.0, IRON)
        c.sign(c.mid - 1.6, 5.75, 3.2, 0.7, (226, 214, 180), (54, 36, 30), 9)
        c.grime(0.25)

    for x in (-6.2, 6.2):
        b.ring(8, (x, 0), (3.5, 3.1), (0, 12.5), tower)
        b.ring(8, (x, 0), (3.6, 3.6), (12.5, 13.4), crown, lid=flat(stone))
        for k in np.arange(8) * np.pi / 4:
            mx, my = x + 3.0 * np.cos(k), 3.0 * np.sin(k)
            b.box((mx - 0.5, mx + 0.5), (my - 0.5, my + 0.5), (13.4, 14.6), merlon, merlon, merlon)
        b.ring(8, (x, 0), (2.7, 0.0), (13.4, 19.0 if x < 0 else 17.6), tiled((124, 58, 50), 0.3))
    b.box((-3.4, 3.4), (-1.6, 1.6), (0, 10.4), arch, arch, flat(stone))
    for i in range(5):
        b.box((-3.2 + 1.4 * i, -2.4 + 1.4 * i), (-1.6, -1.0), (10.4, 11.4), merlon, merlon, merlon)


def fountain(b: Builder) -> None:
    """An obelisk of carved signs on steps, in a basin of mosaic, before a colored wall."""
    colors = palette("1e6284 e8c45c d65e3c eee8d6 2c968c")

    def mosaic(c: Canvas) -> None:
        rows, columns = (max(1, round(side / 0.11)) for side in (c.height, c.width))
        for i in range(rows):
            for j in range(columns):
                k = int(c.rng.integers(5)) if c.rng.random() < 0.35 else (i + j // 7) % 5
                c.rect(j * 0.11, i * 0.11, 0.1, 0.1, vary(c.rng, colors[k], 12))
        c.mottle(0.15)
        c.grime(0.2)

    def carved(c: Canvas) -> None:
        c.courses(1.3, 3.0, (204, 120, 96), 10)
        c.mottle(0.2, 0.4)
        for i in range(int(c.height / 0.62)):
            k = c.width * (0.34 - 0.14 * i * 0.62 / c.height)
            c.glyphs(c.mid - k, 0.25 + 0.62 * i, 2 * k, 0.4, 3, (92, 44, 36))

    def steps(c: Canvas) -> None:
        c.courses(0.3, 0.9, (206, 200, 188), 14, mottle=0.2)
        c.grime(0.25)

    def water(c: Canvas) -> None:
        c.coat((64, 118, 126), 0.3, 1.2)
        for _ in range(160):
            x, y = c.rng.uniform(0, c.width), c.rng.uniform(0, c.height)
            c.line([(x, y), (x + 0.4, y + 0.04)], 0.05, (150, 196, 200))

    def screen(c: Canvas) -> None:
        c.courses(0.3, 0.6, (196, 182, 160), 12)
        c.mural(0.4, 0.7, c.width - 0.8, c.height - 1.5, colors)
        c.frieze(c.height - 0.6, 0.5, (226, 214, 186), (150, 70, 52))
        c.grime(0.3)

    b.ring(8, (0, -2), (5.2, 5.2), (0, 0.95), mosaic, lid=water)
    b.ring(8, (0, -2), (2.9, 2.9), (0.9, 1.6), steps, lid=steps)
    b.ring(4, (0, -2), (2.3, 2.3), (1.6, 3.2), mosaic, lid=steps)
    b.ring(4, (0, -2), (1.5, 0.85), (3.2, 10.2), carved)
    b.ring(4, (0, -2), (0.85, 0.0), (10.2, 11.4), flat((226, 184, 76), 0.1))
    b.box((-9, 9), (6, 7), (0, 6.2), screen, stones((196, 182, 160)), steps)
    for x in (-10.2, 9.0):
        b.box((x, x + 1.2), (5.8, 7.2), (0, 8.0), carved, steps, steps)


def guildhall(b: Builder) -> None:
    """Three merchants' houses wall to wall: stepped, timbered and gabled."""
    beam, cloth, cream = (92, 54, 36), (210, 190, 150), (228, 212, 170)

    def timbered(c: Canvas) -> None:
        c.coat((232, 214, 174), 0.12)
        for y in (0.1, 3.3, 6.2, 8.9):
            c.rect(0, y, c.width, 0.3, vary(c.rng, beam, 8))
        for x in np.arange(0, c.width, 1.28).tolist():
            c.rect(x, 0, 0.24, c.height, vary(c.rng, beam, 8))
            y = c.rng.choice([3.5, 6.4, 9.1])
            c.line([(x, y), (x + 1.3, y + 2.5)], 0.22, vary(c.rng, beam, 8))
        for i in range(3):
            c.window(0.75 + 1.9 * i, 4.0, 1.2, 1.6, "lead flowers", cloth, beam)
            c.window(0.75 + 1.9 * i, 6.95, 1.2, 1.4, "lead", cloth, beam)
        c.window(c.mid - 0.6, 9.7, 1.2, 1.3, "lead", cloth, beam)
        c.sign(0.5, 2.7, 5.0, 0.6, (52, 88, 66), (240, 214, 130), 11)
        c.rect(0.5, 0.4, 3.2, 2.1, vary(c.rng, GLASS, 8), 255)
        for i in range(7):
            c.rect(0.6 + 0.44 * i, 0.6, 0.3, c.rng.uniform(0.4, 1.4), c.color(), 200)
        c.door(4.3, 1.2, 2.2, (150, 52, 40), beam)

    def stepped(c: Canvas) -> None:
        c.courses(0.13, 0.3, (150, 70, 54), 16)
        for i, (y, n) in enumerate(((4.2, 3), (7.3, 3), (10.3, 1))):
            for k in range(n):
                x = c.mid + (k - (n - 1) / 2) * 1.9 - 0.55
                c.window(x, y, 1.1, 1.9 - 0.2 * i, "cross arch", WHITE, cream)
        for y in (3.6, 6.8, 9.8):
            c.frieze(y, 0.26, cream, (96, 70, 56))
        c.door(c.mid - 0.9, 1.8, 3.1, (42, 62, 96), cream, arch=True)
        c.posters(0.2, 0.8, 1.5, 2)
        c.clock(c.mid, 13.2, 0.5, (240, 230, 200), (60, 40, 34))
        c.grime(0.25)

    def gabled(c: Canvas) -> None:
        c.mural(0, 0, c.width, c.height, palette("426a94 e8b254 c45446 f0e6ce 5c8c78"))
        c.mottle(0.12)
        for y in (3.9, 6.9):
            for x in (0.7, 2.7, 4.7):
                c.window(x, y, 1.1, 1.8, "cross shutters", WHITE, (238, 226, 196))
        c.rect(0, 3.1, c.width, 0.3, WHITE)
        c.rect(0.5, 0.3, 2.9, 2.5, vary(c.rng, GLASS, 8), 255)
        c.posters(0.7, 0.8, 2.4, 3)
        c.door(4.2, 1.5, 2.6, (96, 48, 60), WHITE, arch=True)
        for i in range(8):  # awning
            foot = [(0.3 + 0.41 * i, 2.6), (0.71 + 0.41 * i, 2.6)]
            head = [(0.68 + 0.4 * i, 3.1), (0.28 + 0.4 * i, 3.1)]
            c.poly([*foot, *head], (200, 62, 52) if i % 2 else WHITE)

    plain = stones((178, 120, 92), 0.18, 0.4)
    b.gable_front((-9.3, -3.1), -4, (8.9, 12.6), timbered)
    b.wall((-9.3, 5), (-9.3, -4), (0, 8.9), timbered)
    b.gable((-9.3, -3.1), (-4, 5), (8.9, 12.6), tiled((150, 72, 50)), plain, along="y", over=0.5)
    b.wall((-3.1, -4.3), (3.1, -4.3), (0, 14.6), stepped)
    whole = b.faces.pop()
    for i in range(6):  # one texture cut into steps, each course a face of its own
        x, z0, z1 = 3.1 - 0.55 * i, 0.0 if i == 0 else 9.4 + 0.9 * i, 10.3 + 0.9 * i
        points = [(-x, -4.3, z0), (x, -4.3, z0), (x, -4.3, z1), (-x, -4.3, z1)]
        b.faces.append(replace(whole, points=np.array(points)))
    b.wall((3.1, -4.3), (3.1, 5), (0, 10.3), plain)
    b.wall((-3.1, 5), (-3.1, -4.3), (0, 10.3), plain)
    b.gable((-3.1, 3.1), (-4.2, 5), (9.4, 13.6), tiled((112, 62, 54)), plain, along="y", over=0.0)
    b.gable_front((3.1, 9.3), -3.6, (9.6, 12.0), gabled)
    b.wall((9.3, -3.6), (9.3, 5), (0, 9.6), gabled)
    b.gable((3.1, 9.3), (-3.6, 5), (9.6, 12.0), tiled((84, 88, 96)), plain, along="y", over=0.4)
