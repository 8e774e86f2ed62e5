"""Decoder inversion: how near to the latent, how fast, in how much memory.

    python -m benchmarks.decoder

Latents that the model samples at guidance 3 are decoded, clipped and rounded to 8 bits;
every method looks for them again. Then: memory, from the compiled programs; time per
iteration beside the published methods in PyTorch; how much of the error of a whole
inversion, image to noise, is the decoder's; and cocoercivity along the gradient-free
iterations. With ``--resume FILE`` an interrupted run continues where it was.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks.decoder import end_to_end, memory, quality, speed, tiny
from benchmarks.decoder.setting import Setting
from benchmarks.report import parse, parser, provenance, save

SECTIONS = {
    "quality": quality,
    "end_to_end": end_to_end,
    "time": speed,
    "memory": memory,
    "tiny": tiny,
}


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    found = parser("decoder", __doc__, model=True)
    add = found.add_argument
    add("--sections", nargs="+", choices=SECTIONS, default=[*SECTIONS])
    add("--samples", type=int, default=16)
    add("--iterations", type=int, nargs="+", default=[20, 50, 100, 200])
    add("--repeats", type=int, default=3, help="of every timing")
    add("--size", type=int, default=512, help="of the images for the memory")
    add("--tiny", type=Path, help="folder of a tiny autoencoder's original files")
    add("--small", action="store_true", help="without Stable Diffusion's autoencoder")
    return parse(found, argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(argv)
    setting = Setting(arguments)
    parts = []
    with jax.default_matmul_precision("highest"):
        for name in arguments.sections:
            section = SECTIONS[name]
            if name == "tiny" and arguments.tiny is None:
                continue
            parts.append(f"## {section.TITLE}\n\n{section.run(setting)}")
    text = f"""# Decoder inversion on {arguments.model}

{provenance(arguments.command, arguments.model)}

Float32, seed {arguments.seed}. NMSE is `|z - z*|^2 /
|z*|^2` of the latent in dB, PSNR that of the decoded image to the 8-bit image, median
and worst of {arguments.samples} samples. An iteration of a gradient-free method
evaluates the decoder and the encoder once each.

{(chr(10) * 2).join(parts)}
"""
    save(arguments.out, text)


if __name__ == "__main__":
    main()
