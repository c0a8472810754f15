"""The house style, as far as a program can judge it: this test reads the repository itself."""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterable
from typing import Final

import pytest

from tests.helpers.repository import CODE_FOLDERS, ROOT, Module, files, modules

MODULE_LIMIT_LINES: Final = 600

TEXT_SUFFIXES: Final = frozenset(
    {".cfg", ".css", ".html", ".js", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}
)
# Put together here, so that this file does not hold what it looks for.
LEFT_OVER: Final = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
MACHINE_PATH: Final = re.compile(r"(?<![\w.:/-])/(" + "|".join(("work", "root", "home")) + r")/")

# Words to avoid, as far as a program can tell without understanding the sentence.
WORDS: Final = {
    "acknowledgement": "acknowledgment",
    "acknowledgements": "acknowledgments",
    "anew": "again",
    "behaviour": "behavior",
    "cancelled": "canceled",
    "cancelling": "canceling",
    "colour": "color",
    "colours": "colors",
    "favour": "favor",
    "for ever": "forever",
    "labelled": "labeled",
    "neighbour": "neighbor",
    "neighbours": "neighbors",
    "recognise": "recognize",
    "recognised": "recognized",
    "recognises": "recognizes",
}
# What reads as a translation; each with what to write instead.
_ROLE: Final = "the role: a client, a caller, a worker, another process, no node"
STALE_WORDS: Final = {
    "anybody": _ROLE,
    "everybody": _ROLE,
    "nobody": _ROLE,
    "somebody": _ROLE,
    "whoever": _ROLE,
    "at once": "'immediately' or 'together'",
    "beside": "'next to', 'besides' or 'in addition to'",
    "by itself": "'automatically'",
    "in the place of": "'instead of'",
    "meanwhile": "'in the meantime', or nothing",
    "of which": "two sentences, or 'whose'",
    "so long": "'that long' or 'this long'",
}
STALE_WORD: Final = re.compile(
    rf"(?<![-/.\w`])({'|'.join(STALE_WORDS)})\b".replace(" ", r"\s+"), re.IGNORECASE
)

# What a function's docstring does not begin with; a property's only not with the first of these.
QUESTION: Final = re.compile(r"How|If|Let|What|When|Where|Whether|Which|Who|Whoever|Whom|Whose|Why")
NO_VERB: Final = re.compile(
    r"A|About|After|All|An|And|Any|Anything|As|At|Because|Before|Being|Between|Both|Building|But|By|"
    r"Completed|Counts|During|Each|Either|Every|Everybody|Everything|Executions|For|From|Have|He|"
    r"Here|In|Into|It|Items|Its|Keys|Many|Messages|More|Most|Names|No|Nobody|None|Not|Nothing|"
    r"Now|Of|On|Once|One|Only|Or|Others|Our|Promises|Since|So|Some|Somebody|Something|Such|Tags|"
    r"Tasks|That|The|Their|Them|Then|There|These|They|This|Those|Three|Timers|To|Two|Under|Unless|"
    r"Until|Upon|We|With|Within|Without"
)
VERB: Final = re.compile(r"[A-Z][a-z]+(-[a-z]+)?|GET|POST|PUT|PATCH|DELETE")
# Not parts of names, which other libraries choose: `cancelled_caught`, `trio.Cancelled`.
WORD: Final = re.compile(rf"(?<![\w.`])({'|'.join(WORDS)})(?![\w(=`])", re.IGNORECASE)
RAW_HTML: Final = re.compile(
    r"dangerouslySetInnerHTML|\b(inner|outer)HTML\b|insertAdjacentHTML|document\.write"
)
# A template's `style=${{…}}` and `onClick=${…}` set properties; as text they would be attributes.
INLINE: Final = re.compile(r"""\s(style|on[a-zA-Z]+)=(["']|\$\{["'`])""")
TYPE_IGNORE: Final = re.compile(r"#\s*type:\s*ignore(?!\[)")
# An f-string is one token up to Python 3.11 and several from 3.12 on.
WORD_TOKENS: Final = frozenset(
    {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
)


def docstring_faults(module: Module) -> list[str]:
    """A module says in its first lines what it promises."""
    return [] if ast.get_docstring(module.tree) else [f"{module.path}: has no docstring"]


def length_faults(module: Module) -> list[str]:
    """A module has one subject; this many lines is too many for one."""
    count = len(module.text.splitlines())
    if count <= MODULE_LIMIT_LINES:
        return []
    return [f"{module.path}: has {count} lines, more than {MODULE_LIMIT_LINES}"]


def silent_except_faults(module: Module) -> list[str]:
    """An exception is never swallowed without a word, and a broad one never at all."""
    faults = []
    lines = module.text.splitlines()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and all(map(_does_nothing, node.body)):
            where = f"{module.path}:{node.lineno}"
            if node.type is None or _is_broad(node.type):
                faults.append(f"{where}: swallows every exception")
            elif not any("#" in line for line in lines[node.lineno - 1 : node.body[-1].lineno]):
                faults.append(f"{where}: swallows an exception and does not say why")
        elif (
            isinstance(node, ast.Call)
            and _name(node.func) == "suppress"
            and any(map(_is_broad, node.args))
        ):
            faults.append(f"{module.path}:{node.lineno}: swallows every exception")
    return faults


def sleep_faults(module: Module) -> list[str]:
    """The server never blocks its one thread to let time pass; a command has its own."""
    if module.folder == "cli":
        return []
    return [
        f"{module.path}:{node.lineno}: sleeps"
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Attribute) and (_name(node.value), node.attr) == ("time", "sleep"))
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "time"
            and any(alias.name == "sleep" for alias in node.names)
        )
    ]


def type_ignore_faults(module: Module) -> list[str]:
    """An exception from type checking names the error it silences, so that it hides no other."""
    if not TYPE_IGNORE.search(module.text):
        return []
    return [
        f"{module.path}:{token.start[0]}: ignores every type error"
        for token in tokenize.generate_tokens(io.StringIO(module.text).readline)
        if token.type == tokenize.COMMENT and TYPE_IGNORE.search(token.string)
    ]


def class_name_faults(found: Iterable[Module]) -> list[str]:
    """A class has a name of its own: who searches for it finds one thing."""
    places: dict[str, list[str]] = {}
    for module in found:
        names = {node.name for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)}
        for name in names:
            places.setdefault(name, []).append(module.path)
    return [
        f"class {name} is defined in {' and '.join(paths)}: give each a name of its own"
        for name, paths in sorted(places.items())
        if len(paths) > 1
    ]


def text_faults(path: str, text: str) -> list[str]:
    """Nothing is left to be done later, and nothing depends on where somebody's files lie."""
    return [
        f"{path}:{number}: {fault}"
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, fault in (
            (LEFT_OVER, "leaves something undone"),
            (MACHINE_PATH, "names a path of one machine"),
        )
        if pattern.search(line)
    ]


def markup_faults(path: str, text: str) -> list[str]:
    """Nothing is read as HTML or as code, or the texts of others could act."""
    return [
        f"{path}:{number}: {fault}"
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, fault in (
            (RAW_HTML, "reads a text as HTML"),
            (INLINE, "has a style or a script as an attribute"),
        )
        if pattern.search(line)
    ]


def word_faults(module: Module) -> list[str]:
    """Texts and comments are spelled as in America, in words that are still in use."""
    if not WORD.search(module.text):
        return []
    return [
        f"{module.path}:{token.start[0]}: says {found[0]!r}; write {WORDS[found[0].lower()]!r}"
        for token in tokenize.generate_tokens(io.StringIO(module.text).readline)
        if token.type in WORD_TOKENS
        for found in WORD.finditer(token.string)
    ]


def stale_word_faults(module: Module) -> list[str]:
    """Texts and comments name roles, and use words that are read without a second look."""
    if not STALE_WORD.search(module.text):
        return []
    return [
        f"{module.path}:{token.start[0]}: says {found[0]!r}; "
        f"write {STALE_WORDS[_one_line(found[0])]}"
        for token in tokenize.generate_tokens(io.StringIO(module.text).readline)
        if token.type in WORD_TOKENS
        for found in STALE_WORD.finditer(token.string)
    ]


def first_word_faults(module: Module) -> list[str]:
    """A function's docstring begins with an imperative verb; a property's may name what it is."""
    faults = []
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = (ast.get_docstring(node) or "Return").split()[0].rstrip(",.:;")
        is_refused = QUESTION.fullmatch(first) is not None
        if not any("property" in _name(decorator) for decorator in node.decorator_list):
            is_refused |= not VERB.fullmatch(first) or NO_VERB.fullmatch(first) is not None
        if is_refused:
            faults.append(
                f"{module.path}:{node.lineno}: {node.name} begins with {first!r}; "
                "begin with a verb: Return, Yield, Send, Note that ..."
            )
    return faults


def _one_line(text: str) -> str:
    return " ".join(text.lower().split())


def _does_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _is_broad(caught: ast.expr) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(map(_is_broad, caught.elts))
    return _name(caught) in {"Exception", "BaseException"}


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


CHECKS: Final[dict[Callable[[Module], list[str]], tuple[str, ...]]] = {
    docstring_faults: (*CODE_FOLDERS, "src", "tests"),
    length_faults: (*CODE_FOLDERS, "src", "tests"),
    silent_except_faults: (*CODE_FOLDERS, "src", "tests"),
    sleep_faults: (*(folder for folder in CODE_FOLDERS if folder != "bench"), "src"),
    type_ignore_faults: (*CODE_FOLDERS, "src", "tests"),
    word_faults: (*CODE_FOLDERS, "src"),
    stale_word_faults: (*CODE_FOLDERS, "src"),
    first_word_faults: (*CODE_FOLDERS, "src"),
}


@pytest.mark.slow
@pytest.mark.parametrize("folder", [*CODE_FOLDERS, "src", "tests"])
def test_every_module_is_tidy(folder: str) -> None:
    checks = [check for check, folders in CHECKS.items() if folder in folders]

    assert [
        fault for module in modules(folder) for check in checks for fault in check(module)
    ] == []


@pytest.mark.slow
def test_no_class_name_is_defined_in_two_modules() -> None:
    assert class_name_faults(modules(*CODE_FOLDERS, "src")) == []


def test_a_class_name_in_two_modules_is_found() -> None:
    first = Module("core/a.py", "class Lock: ...")
    second = Module("http/b.py", "def f():\n    class Lock: ...")

    assert len(class_name_faults([first, second])) == 1
    assert class_name_faults([first, Module("http/b.py", "class FileLock: ...")]) == []


def test_every_text_is_tidy() -> None:
    at_root = [path for path in ROOT.iterdir() if path.is_file()]
    paths = [
        *at_root,
        ROOT / ".ci" / "run",
        *files(*CODE_FOLDERS, "deploy", "docs", "src", "tests"),
    ]
    faults = []
    for path in paths:
        if path.suffix in TEXT_SUFFIXES or path.name in {"Makefile", "run"}:
            text = path.read_text(encoding="utf-8")
            faults += text_faults(path.relative_to(ROOT).as_posix(), text)

    assert faults == []


def test_the_web_ui_reads_nothing_as_html() -> None:
    faults = []
    for path in files("http"):
        is_ui = path.is_relative_to(ROOT / "http" / "ui") and path.parent.name != "vendor"
        if is_ui and path.suffix in {".js", ".html"}:
            text = path.read_text(encoding="utf-8")
            faults += markup_faults(path.relative_to(ROOT).as_posix(), text)

    assert faults == []


@pytest.mark.parametrize(
    "line",
    [
        "element.innerHTML = text",
        "html`<p dangerouslySetInnerHTML=${{ __html: text }} />`",
        'html`<p style="color: red">`',
        '<body onload="start()">',
        "html`<p onclick=${'start()'}>`",
    ],
)
def test_a_text_that_acts_is_found(line: str) -> None:
    assert len(markup_faults("http/ui/a.js", line)) == 1


def test_a_property_is_no_attribute() -> None:
    assert markup_faults("http/ui/a.js", "html`<p onClick=${close} class=${name}>`") == []


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (docstring_faults, "import ast\n"),
        (length_faults, "\n" * (MODULE_LIMIT_LINES + 1)),
        (silent_except_faults, "try:\n    f()\nexcept:\n    pass  # why\n"),
        (silent_except_faults, "try:\n    f()\nexcept Exception:\n    ...  # why\n"),
        (silent_except_faults, "try:\n    f()\nexcept (OSError, BaseException):\n    pass  # y\n"),
        (silent_except_faults, "try:\n    f()\nexcept OSError:\n    pass\n"),
        (silent_except_faults, "with contextlib.suppress(Exception):\n    f()\n"),
        (sleep_faults, "time.sleep(1)\n"),
        (sleep_faults, "from time import monotonic, sleep\n"),
        (type_ignore_faults, "f()  # type: " + "ignore\n"),
        (word_faults, '"""Begin anew."""\n'),
        (word_faults, "f()  # The colour of it.\n"),
        (word_faults, "f(f'{x} lasts for ever')\n"),
        (stale_word_faults, "f()  # Whoever calls this waits.\n"),
        (stale_word_faults, '"""Ask all of them at\nonce."""\n'),
        (stale_word_faults, "f(f'{x} ends by itself')\n"),
        (first_word_faults, 'def f():\n    """Whether it is."""\n'),
        (first_word_faults, 'def f():\n    """The size of it."""\n'),
        (first_word_faults, 'async def f():\n    """`x` is the size of it."""\n'),
        (first_word_faults, 'def f():\n    """Let it be."""\n'),
        (first_word_faults, '@property\ndef f():\n    """Whether it is."""\n'),
    ],
)
def test_an_untidy_module_is_found(check: Callable[[Module], list[str]], text: str) -> None:
    assert len(check(Module("core/a.py", text))) == 1


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (silent_except_faults, "try:\n    f()\nexcept OSError:  # why\n    pass\n"),
        (silent_except_faults, "try:\n    f()\nexcept OSError:\n    # why\n    pass\n"),
        (silent_except_faults, "try:\n    f()\nexcept Exception:\n    g()\n"),
        (sleep_faults, "trio.sleep(1)\n"),
        (type_ignore_faults, "f()  # type: " + "ignore[misc]\n"),
        (word_faults, "scope.cancelled_caught  # What `cancelled_caught` says, for every scope.\n"),
        (stale_word_faults, "nobody = f()\n"),
        (first_word_faults, '@property\ndef f():\n    """The size of it."""\n'),
        (first_word_faults, 'def f():\n    """GET /x/{id}."""\n'),
        (first_word_faults, 'def f():\n    """Return whether it is."""\n'),
        (first_word_faults, "def f(): ...\n"),
    ],
)
def test_a_tidy_module_is_left_alone(check: Callable[[Module], list[str]], text: str) -> None:
    assert check(Module("core/a.py", text)) == []


def test_untidy_texts_are_found() -> None:
    assert len(text_faults("a.md", f"fine\n{'TO' + 'DO'}: more")) == 1
    assert len(text_faults("a.md", f"see {'/ro' + 'ot'}/notes or `{'/wo' + 'rk'}/x`")) == 1
    assert text_faults("a.md", "https://example.com/home/page and ./work/done") == []
