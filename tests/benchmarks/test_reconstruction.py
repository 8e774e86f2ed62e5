"""The benchmark runs, and what its table says of one small case is true."""

import re

from benchmarks.reconstruction import main


def test_exact_inversion_beats_naive_inversion_in_the_printed_table(tmp_path):
    out = tmp_path / "table.md"
    arguments = "--samples 1 --steps 20 --guidance 1 --methods naive Anderson --out"
    main([*arguments.split(), str(out)])
    noise = {}
    for line in out.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 9 and cells[0] == "log_snr":
            noise[cells[3]] = float(re.match(r"-?[\d.]+", cells[5]).group())
    assert noise["Anderson"] < noise["naive"] - 20
