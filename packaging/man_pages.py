#!/usr/bin/env python3
"""Man pages out of what the programs say themselves with --help, so that neither can grow old alone.

    man_pages.py build/release build/release/man

writes sockbrokerd.8.gz, sockbroker.1.gz and one sockbroker-WORD.1.gz for each word. The help's form is what it relies on: `Usage:`,
paragraphs, headings that end in a colon, and below them lists whose texts stand in a column or (for examples) as they are."""

import gzip
import pathlib
import re
import subprocess
import sys

# Headings whose lines are lists of a term and its meaning, beside those of options.
LISTS = ("Commands", "Exit status", "Environment")


def roff(text):
    """Text that roff leaves alone: no escapes, no control lines, hyphens that can be copied."""
    text = text.replace("\\", "\\(rs").replace("-", "\\-")
    return re.sub(r"^(['.])", r"\\&\1", text)


def bold(term):
    return ".B " + roff(term).replace('"', '\\(dq')


def said_by(program, *words):
    return subprocess.run([program, *words], capture_output=True, text=True, check=True).stdout


def blocks(help_text):
    """(heading or None, its lines) in order; a heading is a short line that ends with a colon. `Usage:` has its first line
    beside it."""
    heading, lines = None, []
    for line in help_text.splitlines():
        match = re.fullmatch(r"(\S.{0,38}):", line)
        usage = re.fullmatch(r"Usage: (.*)", line)
        if match or usage:
            yield heading, lines
            heading, lines = ("Usage", ["       " + usage[1]]) if usage else (match[1], [])
        elif heading is not None and line and not line.startswith(" "):
            # Prose again.
            yield heading, lines
            heading, lines = None, [line]
        else:
            lines.append(line)
    yield heading, lines


def prose(lines):
    for line in "\n".join(lines).strip().splitlines():
        if line.startswith(" "):
            yield from as_it_is([line])
        else:
            yield roff(line) if line else ".PP"


def as_it_is(lines):
    yield ".EX"
    yield from (roff(line) for line in "\n".join(lines).strip("\n").splitlines())
    yield ".EE"


def entries(lines):
    """A list: `  TERM  text` with the text's other lines below its first; what is indented further is kept as it is."""
    column, kept = None, []
    for line in lines:
        # `  -x, --long VALUE  text`, or the term alone on its line.
        match = re.match(r"( {1,6}\S.*?)(?: {2,}(\S.*))?$", line)
        indent = len(line) - len(line.lstrip())
        if match and (column is None or indent < min(column, 10)):
            if kept:
                yield from as_it_is(kept)
                kept = []
            yield ".TP"
            yield bold(match[1].strip())
            if match[2]:
                column = line.index(match[2], len(match[1]))
                yield roff(match[2])
        elif not line.strip():
            continue
        else:
            column = column if column is not None and column <= indent else indent
            if indent >= column + 2:
                kept.append(line[column:])
                continue
            if kept:
                yield from as_it_is(kept)
                kept = []
            yield roff(line.strip())
    if kept:
        yield from as_it_is(kept)


def page(name, section, help_text, version, see_also):
    parts = [(heading, lines) for heading, lines in blocks(help_text) if heading or any(map(str.strip, lines))]
    usage = next(lines for heading, lines in parts if heading == "Usage")
    described = next(lines for heading, lines in parts if heading is None)
    purpose = " ".join("\n".join(described).strip().split("\n\n")[0].split())
    yield f'.TH {name.upper().replace("-", chr(92) + "-")} {section} "" "sockbroker {version}" "sockbroker"'
    yield ".SH NAME"
    yield f"{roff(name)} \\- {roff(purpose.split('. ')[0].rstrip('.'))}"
    yield ".SH SYNOPSIS"
    for line in usage:
        if line.strip():
            yield ".br"
            yield bold(line.strip())
    yield ".SH DESCRIPTION"
    yield from prose(described)
    inside = "DESCRIPTION"
    for heading, lines in parts:
        if lines is usage or lines is described or heading == "Usage":
            continue
        if heading is None:
            if inside != "DESCRIPTION":
                yield ".SH NOTES"
                inside = "DESCRIPTION"
            else:
                yield ".PP"
            yield from prose(lines)
            continue
        inside = heading
        options = any(re.match(r" +-", line) for line in lines)
        yield (".SH " if heading in LISTS + ("Options", "Example", "Examples") else ".SS ") + roff(heading.upper())
        yield from entries(lines) if options and not heading.startswith("Example") or heading in LISTS else as_it_is(lines)
    yield ".SH SEE ALSO"
    yield ",\n".join(f".BR {roff(other)} ({part})" if i == len(see_also) - 1 else f".BR {roff(other)} ({part}) ,"
                     for i, (other, part) in enumerate(see_also)).replace(" ,,", " ,")


def main():
    programs, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    daemon, client = programs / "sockbrokerd", programs / "sockbroker"
    version = said_by(client, "--version").split()[1]
    whole = said_by(client, "--help")
    commands = next(lines for heading, lines in blocks(whole) if heading == "Commands")
    words = [line.split()[0] for line in commands if line.strip()]
    pages = {
        ("sockbrokerd", 8): (said_by(daemon, "--help"), [("sockbroker", 1)]),
        ("sockbroker", 1): (whole, [(f"sockbroker-{word}", 1) for word in words] + [("sockbrokerd", 8)]),
    }
    for word in words:
        pages[f"sockbroker-{word}", 1] = (said_by(client, word, "--help"), [("sockbroker", 1), ("sockbrokerd", 8)])
    for (name, section), (help_text, see_also) in pages.items():
        text = "\n".join(page(name, section, help_text, version, see_also)) + "\n"
        # Without a time in it, so that the same help makes the same file.
        (out / f"{name}.{section}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
