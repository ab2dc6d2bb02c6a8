"""Writes the random GGUF that gguf.mjs planned: python3 gguf-body.py FOLDER_WITH_HEADER_AND_PLAN OUT.gguf"""
import random
import struct
import sys

folder, path = sys.argv[1:]
random.seed(12345)
blocks = b"".join(struct.pack("<H", 0x1419) + random.randbytes(16) for _ in range(1 << 16))  # f16 scale 0.0010, 32 nibbles
with open(path, "wb") as out:
    out.write(open(folder + "/header.bin", "rb").read())
    for line in open(folder + "/plan.txt"):
        kind, count = line.split()
        count = int(count)
        if kind == "ones":
            out.write(struct.pack("<f", 1.0) * (count // 4))
        else:
            for at in range(0, count, len(blocks)):
                out.write(blocks[: min(len(blocks), count - at)])
        out.write(b"\0" * (-count % 32))
