#!/usr/bin/env python3
"""Makes docs/asyncio-conformance.md: which test proves which row of asyncio's behaviour.

    scripts/conformance.py            writes the document
    scripts/conformance.py --check    fails when the document is out of date, or a row is neither proven nor explained

The rows are in docs/asyncio-rows.txt. A test proves rows by a comment directly above it:

    // Rows: 64, 66
    CO_TEST_REAL(StartServerTest, AFailedBindNamesTheAddress) {

In Python the comment begins with "#" and stands above `def test_...`. Nothing else is read of the tests: that they pass
is for the tests to say.
"""

import argparse
import collections
import difflib
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROWS = ROOT / "docs" / "asyncio-rows.txt"
DOCUMENT = ROOT / "docs" / "asyncio-conformance.md"
# Where tests are, and how they look.
TESTS = [("tests", "*.cc"), ("tests", "*.py")]

COMMENT = re.compile(r"^\s*(?://|#) Rows:\s*(.*)$")
NUMBERS = re.compile(r"^\d+(, \d+)*$")
CPP_TEST = re.compile(r"^\w*TEST\w*\(\s*(\w+),\s*(\w+)\)")
PYTHON_TEST = re.compile(r"^\s*(?:async )?def (test_\w+)\(")

FATES = {
    "test": "proven",
    "differs": "differs on purpose",
    "python": "about Python's objects",
    "none": "does not arise",
}

HEADER = """\
<!-- Made by scripts/conformance.py from docs/asyncio-rows.txt and the tests. Do not edit. -->
# asyncio conformance

The stream engine behaves as Python's asyncio streams do: those of 3.14. This page goes through that behaviour row by
row, {count} of them, and names the tests that prove each here, or says why there are none.

| | rows |
|---|---|
"""


class Row:
    def __init__(self, number, fate, summary, reason):
        self.number, self.fate, self.summary, self.reason = number, fate, summary, reason
        self.tests = []

    def verdict(self):
        if self.tests and self.fate in ("python", "none"):
            return FATES["test"]
        return FATES[self.fate]


def read_rows(problems):
    """The rows by number, and the sections as (title, numbers)."""
    rows, sections = {}, []
    for line_number, line in enumerate(ROWS.read_text().splitlines(), 1):
        where = f"{ROWS.relative_to(ROOT)}:{line_number}"
        if not line or line.startswith("#"):
            continue
        if line.startswith("== "):
            sections.append((line[3:], []))
            continue
        fields = [field.strip() for field in line.split(" | ")]
        if len(fields) not in (3, 4) or not fields[0].isdigit() or fields[1] not in FATES:
            problems.append(f"{where}: not a row: {line}")
            continue
        row = Row(int(fields[0]), fields[1], fields[2], fields[3] if len(fields) == 4 else "")
        if row.number in rows:
            problems.append(f"{where}: row {row.number} again")
        if bool(row.reason) == (row.fate == "test"):
            problems.append(f"{where}: a row has a reason unless its fate is `test`")
        rows[row.number] = row
        sections[-1][1].append(row.number)
    missing = sorted(set(range(1, max(rows, default=0) + 1)) - set(rows))
    if missing:
        problems.append(f"{ROWS.relative_to(ROOT)}: rows are missing: {missing}")
    return rows, sections


def read_tests(rows, problems):
    for directory, pattern in TESTS:
        for path in sorted((ROOT / directory).rglob(pattern)):
            lines = path.read_text().splitlines()
            for index, line in enumerate(lines):
                comment = COMMENT.match(line)
                if not comment:
                    continue
                where = f"{path.relative_to(ROOT)}:{index + 1}"
                if not NUMBERS.match(comment[1]):
                    problems.append(f"{where}: not a list of rows: {comment[1]}")
                    continue
                # The formatter may have put the test's name on a line of its own.
                below = " ".join(part.strip() for part in lines[index + 1 : index + 4])
                test = CPP_TEST.match(below) or PYTHON_TEST.match(below)
                if not test:
                    problems.append(f"{where}: there is no test directly below")
                    continue
                name = f"`{path.relative_to(ROOT)}`: " + ".".join(test.groups())
                for number in map(int, comment[1].split(", ")):
                    if number in rows:
                        rows[number].tests.append(name)
                    else:
                        problems.append(f"{where}: there is no row {number}")


def render(rows, sections):
    counts = collections.Counter(row.verdict() for row in rows.values())
    out = [HEADER.format(count=len(rows))]
    for verdict in FATES.values():
        if counts[verdict]:
            out.append(f"| {verdict} | {counts[verdict]} |\n")
    differing = sum(1 for row in rows.values() if row.fate == "differs" and row.tests)
    if differing:
        out.append(f"\nOf those that differ on purpose, {differing} have tests that prove what is done instead.\n")
    for title, numbers in sections:
        out.append(f"\n## {title}\n\n| row | asyncio | here |\n|---|---|---|\n")
        for number in numbers:
            row = rows[number]
            here = [f"{row.verdict()}: {row.reason}" if row.reason and row.verdict() != "proven" else row.verdict()]
            here += row.tests
            out.append(f"| {number} | {row.summary} | {'<br>'.join(here)} |\n")
    return "".join(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when something is not as it should be")
    arguments = parser.parse_args()

    problems = []
    rows, sections = read_rows(problems)
    read_tests(rows, problems)
    for row in rows.values():
        if row.fate == "test" and not row.tests:
            problems.append(f"row {row.number} is neither proven nor explained: {row.summary}")
    document = render(rows, sections)
    if arguments.check:
        present = DOCUMENT.read_text() if DOCUMENT.exists() else ""
        if present != document:
            name = str(DOCUMENT.relative_to(ROOT))
            sys.stdout.writelines(
                difflib.unified_diff(present.splitlines(True), document.splitlines(True), name, "what the tests say", n=0)
            )
            problems.append(f"{name} is out of date; run scripts/conformance.py")
    else:
        DOCUMENT.write_text(document)
    for problem in problems:
        print(f"conformance: {problem}", file=sys.stderr)
    if not problems:
        proven = sum(1 for row in rows.values() if row.tests)
        print(f"conformance: {proven} of {len(rows)} rows have tests, the others have their reasons")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
