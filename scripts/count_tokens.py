"""Measure how much code there is, and how dense it is: ``python scripts/count_tokens.py``.

It counts the tokens of Python 3.11's ``tokenize`` without comments and docstrings, and the words of
YAML files, templates and the Snakefile without comments. *General* is all of ``dfnb/`` and
``workflow/`` except ``dfnb/synth`` and the files of the papers. Later versions of Python split
f-strings into several tokens and so count more.
"""

import ast
import bisect
import io
import statistics
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PAPERS = {  # files, without their suffix
    "exposing_the_deception",
    "gend",
    "lae",
    "locate_and_verify",
    "self_blended_images",
    "xception",
}
WORDS = {".yaml", ".jinja", ".mplstyle"}  # files whose words are counted
# Tokens that are no code: layout, which a formatter decides, and comments.
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)  # with docstrings
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass
class Code:
    """The tokens of a Python file, and what is derived from them."""

    path: Path
    tree: ast.Module
    tokens: list[tokenize.TokenInfo]  # in their order, without comments and docstrings

    @property
    def lines(self) -> int:
        """The number of lines with code."""
        return len(lines_of(self.tokens))

    @property
    def tokens_per_line(self) -> float:
        """Tokens divided by lines of code."""
        return len(self.tokens) / max(1, self.lines)

    def function_lines(self) -> dict[str, int]:
        """The number of lines of code of each function, by its name and first line, ``read:88``."""
        lengths = {}
        for node in ast.walk(self.tree):
            if isinstance(node, FUNCTIONS):
                lines = lines_of(self.tokens)
                inside = [line for line in lines if node.lineno <= line <= node.end_lineno]
                lengths[f"{node.name}:{node.lineno}"] = len(inside)
        return lengths

    def statement_tokens(self) -> list[int]:
        """The number of tokens of each statement; of a compound one, those before its body.

        A compound statement, such as ``if``, contains others, which are counted by themselves.
        """
        starts = [token.start for token in self.tokens]
        counts = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.stmt):
                end = (node.end_lineno, node.end_col_offset)
                body = getattr(node, "body", None)
                if body:
                    end = (body[0].lineno, body[0].col_offset)
                # Tokens are sorted by (line, column): the statement's are those between two places.
                begin = bisect.bisect_left(starts, (node.lineno, node.col_offset))
                counts.append(bisect.bisect_left(starts, end) - begin)
        return [count for count in counts if count]  # docstrings have none

    def comprehensions(self) -> int:
        """The number of comprehensions and generator expressions."""
        return sum(isinstance(node, COMPREHENSIONS) for node in ast.walk(self.tree))  # True is 1


def lines_of(tokens: list[tokenize.TokenInfo]) -> set[int]:
    """The numbers of the lines with tokens; a string of several lines counts on each of them."""
    lines = set()
    for token in tokens:
        lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def read(path: Path) -> Code:
    """The code of a Python file."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    # A docstring is a token like any other text: only the syntax tree shows it.
    docstring_lines = set()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            docstring_lines.update(range(docstring.lineno, docstring.end_lineno + 1))
    tokens = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE and token.start[0] not in docstring_lines:
            tokens.append(token)
    return Code(path, tree, tokens)


def package(checkout: Path = CHECKOUT) -> list[Code]:
    """The Python files of ``dfnb`` and ``workflow``."""
    paths = [*checkout.glob("dfnb/**/*.py"), *checkout.glob("workflow/**/*.py")]
    return [read(path) for path in sorted(paths)]


def tests(checkout: Path = CHECKOUT) -> list[Code]:
    """The Python files of ``tests``."""
    return [read(path) for path in sorted(checkout.glob("tests/**/*.py"))]


def is_general(path: Path) -> bool:
    """Whether a file of the package counts as general code: no file of dfnb/synth or of a paper."""
    return path.parent.name != "synth" and path.stem not in PAPERS


def words(checkout: Path = CHECKOUT) -> dict[Path, int]:
    """The number of words of each general file that is not Python, by its path."""
    counts = {}
    for path in [*sorted(checkout.glob("dfnb/**/*")), checkout / "workflow" / "Snakefile"]:
        if is_general(path) and (path.suffix in WORDS or path.name == "Snakefile"):
            lines = path.read_text(encoding="utf-8").splitlines()
            counts[path] = sum(len(line.split("#")[0].split()) for line in lines)
    return counts


def general(files: list[Code], checkout: Path = CHECKOUT) -> int:
    """The number of tokens and words of the general code; other ``files`` are left out."""
    tokens = sum(len(code.tokens) for code in files if is_general(code.path))
    return tokens + sum(words(checkout).values())


def report() -> Iterator[str]:
    """The lines that this script prints: of each file tokens, lines and tokens per line; sums."""
    files = package()
    for code in [*files, *tests()]:
        name = code.path.relative_to(CHECKOUT)
        yield f"{name!s:45} {len(code.tokens):6} {code.lines:5} {code.tokens_per_line:5.1f}"
    for path, count in words().items():
        yield f"{path.relative_to(CHECKOUT)!s:45} {count:6} words"
    tokens = sum(len(code.tokens) for code in files)
    lines = sum(code.lines for code in files)
    own = sum(len(code.tokens) for code in files if not is_general(code.path))
    statements = []
    for code in files:
        statements += code.statement_tokens()
    comprehensions = sum(code.comprehensions() for code in files)
    yield f"general code, tokens and words: {general(files)}"
    yield f"papers and synth: {own}"
    yield f"tests: {sum(len(code.tokens) for code in tests())}"
    yield f"tokens per line: {tokens / lines:.1f}"
    yield f"median statement: {statistics.median(statements):.0f} tokens"
    yield f"comprehensions per thousand tokens: {1000 * comprehensions / tokens:.1f}"


if __name__ == "__main__":
    print("\n".join(report()))
