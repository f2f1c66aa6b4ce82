"""Draws the Mandelbrot set as a PNG with nothing but the standard library."""

import struct
import sys
import zlib

WIDTH, HEIGHT = 480, 320
STEPS_MAX = 120
LEFT, RIGHT, TOP, BOTTOM = -2.2, 1.0, 1.07, -1.07


def steps(c):
    """How many steps it takes to see that the point is outside of the set; STEPS_MAX when it is not seen."""
    z = 0j
    for step in range(STEPS_MAX):
        if z.real * z.real + z.imag * z.imag > 4.0:
            return step
        z = z * z + c
    return STEPS_MAX


def colour(step):
    if step == STEPS_MAX:
        return bytes(3)
    t = step / STEPS_MAX
    return bytes((int(255 * t ** 0.5), int(200 * t), int(255 * (1 - t) * t ** 0.25)))


def row(y):
    imag = TOP + (BOTTOM - TOP) * y / (HEIGHT - 1)
    points = (complex(LEFT + (RIGHT - LEFT) * x / (WIDTH - 1), imag) for x in range(WIDTH))
    # The first byte says that the row's colours are stored as they are.
    return b"\0" + b"".join(colour(steps(point)) for point in points)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def main(path):
    rows = []
    for y in range(HEIGHT):
        rows.append(row(y))
        if (y + 1) % (HEIGHT // 8) == 0:
            print(f"{100 * (y + 1) // HEIGHT} %", flush=True)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    with open(path, "wb") as png:
        png.write(b"\x89PNG\r\n\x1a\n")
        png.write(chunk(b"IHDR", header))
        png.write(chunk(b"IDAT", zlib.compress(b"".join(rows), 9)))
        png.write(chunk(b"IEND", b""))
    print(f"wrote {path}, {WIDTH} x {HEIGHT}")


main(sys.argv[1] if len(sys.argv) > 1 else "mandelbrot.png")
