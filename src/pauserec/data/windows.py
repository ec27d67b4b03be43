"""Cutting long histories into windows."""


def spans(length: int, size: int, overlap: float) -> list[tuple[int, int, int]]:
    """Cut a sequence of `length` events so that each event but the first is a target once, newest window first.

    Gives (start, first, stop) of each window: it shows items start to stop - 1, at most `size` of them, of which it shares
    the part `overlap` with the window before it; its targets are the events first to stop.
    """
    step = max(1, round(size * (1 - overlap)))
    found, stop = [], length - 1
    while stop >= 1:
        start = max(0, stop - size)
        first = 1 if start == 0 else stop - step + 1
        found.append((start, first, stop))
        stop = first - 1
    return found
