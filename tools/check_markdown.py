"""Check that prose in Markdown files keeps to the line length. Tables, code, comments and links may be longer."""

import argparse
import re
import sys
from pathlib import Path

from markdown_it import MarkdownIt

LINK = re.compile(r'\]\([^)\s]*\)|<https?://[^>]*>')


def long_lines(text: str, limit: int) -> list[int]:
    """Numbers, from 1, of the lines of prose that are longer than ``limit`` when their links are left out."""
    lines, found, in_table = text.splitlines(), [], False
    for token in MarkdownIt('commonmark').enable('table').parse(text):
        in_table = token.type == 'table_open' or (in_table and token.type != 'table_close')
        if token.type == 'inline' and not in_table:
            first, end = token.map
            found += [number + 1 for number in range(first, end) if len(LINK.sub('', lines[number])) > limit]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('files', nargs='+', type=Path)
    parser.add_argument('--limit', type=int, default=118, help='characters of a line (default: %(default)s)')
    args = parser.parse_args()
    wrong = [f'{path}:{line}' for path in args.files for line in long_lines(path.read_text(), args.limit)]
    if wrong:
        sys.exit('\n'.join(wrong) + f'\n{len(wrong)} lines of prose are longer than {args.limit} characters')


if __name__ == '__main__':
    main()
