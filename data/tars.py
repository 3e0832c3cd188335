"""Walking through a tar that nobody vouches for.

Python's tarfile believes sizes (it asks for all the gigabytes that the header of a long name claims), builds the map of a
sparse file however long it is, and takes a damaged header in the middle for the end. Here each header is checked, reads
are bounded, and every end but the proper one is an error. Names are only ever text: nothing is unpacked.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = tarfile.BLOCKSIZE

MAX_NAME_BYTES = 2**20
"""Of a header that holds a long name or other notes on the next member."""

LOOK_BEHIND_END = 2**16


class TarError(ValueError):
    """A tar is damaged, cut short or of a kind that is not read; the text says where."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A regular file in a tar: its name as it stands there, and where its content lies."""

    name: str
    offset: int
    size: int


def members(descriptor: int) -> Iterator[Member]:
    """The regular files of a tar, in their order; folders, links and devices are passed over. Raises TarError."""
    end = os.fstat(descriptor).st_size
    position = 0
    notes: dict[str, str] = {}
    while True:
        header = _header(descriptor, position)
        if header is None:
            _check_end(descriptor, position)
            return
        content = position + BLOCK
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
            notes |= _notes(header, _payload(descriptor, header, content), position)
            position = content + _padded(header.size)
            continue
        name, size = notes.get("path", header.name), _size(notes, header, position)
        if header.type == tarfile.GNUTYPE_SPARSE or any(note.startswith("GNU.sparse") for note in notes):
            raise TarError(f"a sparse file found at byte {position}; write the tar without --sparse")
        notes = {}
        if not header.isreg() and header.type in tarfile.SUPPORTED_TYPES:
            position = content  # a folder, link or device: no content, whatever size it gives
            continue
        if content + size > end:
            raise TarError(f"the member at byte {position} has {size} bytes, of which {max(0, end - content)} are there: cut short")
        if header.isreg():
            yield Member(name=name, offset=content, size=size)
        position = content + _padded(size)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _header(descriptor: int, position: int) -> tarfile.TarInfo | None:
    """The header at `position`; None at the mark of the end."""
    block = os.pread(descriptor, BLOCK, position)
    if position == 0 and block[:2] == b"\x1f\x8b":
        raise TarError("compressed; unpack it with gunzip, members are read where they lie")
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
        raise TarError(f"ends at byte {position} without the mark of its end: cut short") from None
    except tarfile.HeaderError as error:
        raise TarError(f"no header of a member at byte {position} ({error}): damaged or cut short") from None
    if header.size < 0:
        raise TarError(f"the member at byte {position} has {header.size} bytes: damaged")
    return header


def _check_end(descriptor: int, position: int) -> None:
    if os.pread(descriptor, LOOK_BEHIND_END, position).strip(b"\0"):
        raise TarError(f"goes on after its end at byte {position}: tars joined by cat; use them one by one")


def _payload(descriptor: int, header: tarfile.TarInfo, position: int) -> bytes:
    if header.size > MAX_NAME_BYTES:
        raise TarError(f"a name of {header.size} bytes at byte {position - BLOCK}, at most {MAX_NAME_BYTES} are read")
    payload = os.pread(descriptor, header.size, position)
    if len(payload) != header.size:
        raise TarError(f"the name at byte {position - BLOCK} has {header.size} bytes, of which {len(payload)} are there: cut short")
    return payload


def _notes(header: tarfile.TarInfo, payload: bytes, position: int) -> dict[str, str]:
    """What the header before a member says of it: `path` and `size` where they do not fit in its own, and more."""
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": payload.split(b"\0", 1)[0].decode(errors="replace")}
    if header.type not in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
        return {}
    notes: dict[str, str] = {}
    start = 0
    while start < len(payload) and payload[start]:
        # LENGTH KEY=VALUE\n, where LENGTH counts itself and the end of the line.
        digits = payload[start : start + 8].split(b" ", 1)[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = payload[start + len(digits) + 1 : start + length - 1].partition(b"=")
        if not equals or not len(digits) < length <= len(payload) - start:
            raise TarError(f"the extended header at byte {position} does not read: damaged")
        notes[key.decode(errors="replace")] = value.decode(errors="replace")
        start += length
    return notes


def _size(notes: dict[str, str], header: tarfile.TarInfo, position: int) -> int:
    text = notes.get("size")
    if text is None:
        return header.size
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise TarError(f"the extended header before byte {position} gives a size of {text[:30]!r}: damaged")
    return int(text)
