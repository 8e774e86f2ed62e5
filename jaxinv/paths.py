"""Paths of parameters that are stacked.

A parameter's path joins attribute names and list indices by dots, such as
``down_blocks.0.resnets.1.conv1.kernel``. The parameters of identical blocks are stacked
(:class:`jaxinv.models.layers.stack.Stack`): ``blocks.0:13.attn.to_q.kernel`` are those
of the blocks 0 to 12, along a leading axis.
"""

import re

_SPAN = re.compile(r"(?:^|(?<=\.))(\d+):(\d+)(?=\.)")


def stacked_axes(path: str) -> int:
    """Return 1 for the path of a stacked parameter, whose first axis counts blocks.

    Other parameters have 0 such axes.
    """
    return 1 if _SPAN.search(path) else 0


def members(path: str) -> tuple[str, ...]:
    """Return the paths of a parameter's blocks, as if they were not stacked.

    Args:
        path: A parameter's path.

    Returns:
        One path per block, in order; for a parameter that is not stacked, its own.

    Example:
        >>> members("blocks.3:5.norm.scale")
        ('blocks.3.norm.scale', 'blocks.4.norm.scale')
        >>> members("norm.scale")
        ('norm.scale',)
    """
    found = _SPAN.search(path)
    if found is None:
        return (path,)
    before, after = path[: found.start()], path[found.end() :]
    return tuple(f"{before}{i}{after}" for i in range(int(found[1]), int(found[2])))
