"""A boot menu as GRUB reads it: quoting, variables, conditions, submenus, BLS entries, and the entry that boots. Pure.

GRUB's language: grub-core/script/{yylex.l,parser.y}; which entry boots: grub-core/normal/menu.c; BLS entries: the patch
blscfg of Fedora's GRUB and, since 2.14, grub-core/commands/blsuki.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_KEYWORDS = ("then", "else", "do")
_LOADS_LINUX = ("linux", "linux16", "linuxefi", "kernel")
# A menu that includes itself, or a function that calls itself, ends there.
_DEPTH = 8
# What init takes for a rescue shell (systemd's rlimit of kernel-command-line(7)), and what menus of Debian's call it.
_RECOVERY = frozenset(
    {"single", "recovery", "emergency", "rescue", "s", "S", "1", "-s", "-b"}
    | {f"systemd.unit={name}{end}" for name in ("rescue", "emergency") for end in ("", ".target")}
)
# A part of a word: its text, whether that is a variable's name, and whether it is quoted.
_Part = tuple[str, bool, bool]


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """One entry of a menu. ``place`` is ``FILE:LINE`` where its arguments stand, ``script`` what wrote them there.

    ``kernel`` is empty where the entry starts no Linux. ``arguments`` are as the kernel gets them.
    """

    title: str
    place: str
    kernel: str = ""
    arguments: tuple[str, ...] = ()
    script: str = ""

    @property
    def is_recovery(self) -> bool:
        return not _RECOVERY.isdisjoint(self.arguments)

    @property
    def root(self) -> str | None:
        return next((each for each in reversed(self.arguments) if each.startswith("root=")), None)


@dataclass(frozen=True, slots=True)
class Menu:
    """All entries in the order of the menu, those of submenus included, and the one that boots by itself."""

    entries: tuple[MenuEntry, ...] = ()
    boots: MenuEntry | None = None


@dataclass(slots=True)
class _Item:
    title: str
    name: str
    entry: MenuEntry | None = None
    below: list[_Item] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Statement:
    line: int
    words: tuple[tuple[_Part, ...], ...]
    block: tuple[_Statement, ...] | None = None


def read(files: Mapping[str, str], menu: str, efi: bool) -> Menu:
    """Read ``menu``. ``files`` are the texts of it and of what it may include, BLS entries among them, by their paths.

    ``menu`` is a path such as /boot/grub/grub.cfg; the directory that it is in is GRUB's prefix.
    """
    run = _Run(files, menu.rpartition("/")[0], efi)
    run.source(menu)
    return Menu(tuple(_entries(run.items)), _chosen(run.items, run.environment.get("default", "")))


def words(text: str) -> tuple[str, ...]:
    """Split a text as the words of GRUB's command ``linux``, without variables."""
    statements, _ = _statements(text, 0, 1)
    run = _Run({}, "", efi=False)
    return tuple(word for each in statements for word in run.expand(each.words))


def environment_block(text: str) -> dict[str, str]:
    """The variables of a grubenv."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: re.sub(r"\\(.)", r"\1", value) for name, sign, value in pairs if sign}


# --- the language


def _word(text: str, at: int, line: int) -> tuple[tuple[_Part, ...], int, int]:
    """One word that begins at ``at``; returns it, and the offset and line behind it."""
    parts: list[_Part] = []
    quote = ""
    while at < len(text):
        letter = text[at]
        if quote == "'":
            end = text.find("'", at)
            end = len(text) if end < 0 else end
            parts.append((text[at:end], False, True))
            line += text.count("\n", at, end)
            at, quote = end + 1, ""
            continue
        if letter == "\\" and at + 1 < len(text):
            following = text[at + 1]
            if following == "\n":
                line += 1
            elif quote and following not in '$"\\':
                parts.append(("\\" + following, False, True))
            else:
                parts.append((following, False, True))
            at += 2
            continue
        if letter == '"':
            quote = "" if quote else '"'
            parts.append(("", False, True))
        elif letter == "'" and not quote:
            quote = "'"
        elif letter == "$" and (name := re.compile(r"\$(?:\{([^}\s]*)\}|(\w+)|([?*@#]))").match(text, at)):
            parts.append((next(group for group in name.groups() if group is not None), True, bool(quote)))
            at = name.end()
            continue
        elif not quote and letter in " \t\n;|&<>{}" and not (letter in "{}" and parts):
            break
        else:
            line += letter == "\n"
            parts.append((letter, False, bool(quote)))
        at += 1
    return tuple(parts), at, line


def _statements(text: str, at: int, line: int, *, inside: bool = False) -> tuple[list[_Statement], int]:
    """The statements from ``at`` up to the end, or up to the brace that closes the block."""
    statements: list[_Statement] = []
    current: list[tuple[_Part, ...]] = []
    first_line = line

    def finish(block: tuple[_Statement, ...] | None = None) -> None:
        if current or block is not None:
            statements.append(_Statement(first_line, tuple(current), block))
            current.clear()

    while at < len(text):
        letter = text[at]
        if letter in "\n;|&<>":
            finish()
            line += letter == "\n"
            at += 1
        elif letter in " \t\r":
            at += 1
        elif letter == "\\" and text[at + 1 : at + 2] == "\n":
            line += 1
            at += 2
        elif letter == "#":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        elif letter == "{":
            block, end = _statements(text, at + 1, line, inside=True)
            finish(tuple(block))
            line += text.count("\n", at, end)
            at = end
        elif letter == "}":
            at += 1
            if inside:
                break
        else:
            if not current:
                first_line = line
            one, at, line = _word(text, at, line)
            current.append(one)
            if len(current) == 1 and "".join(part for part, _, _ in one) in _KEYWORDS:
                finish()
    finish()
    return statements, at


class _Run:
    """GRUB's run through a menu."""

    def __init__(self, files: Mapping[str, str], prefix: str, efi: bool) -> None:
        self.files = files
        self.items: list[_Item] = []
        self.environment = {
            "prefix": prefix,
            "config_directory": prefix,
            "grub_platform": "efi" if efi else "pc",
            "grub_cpu": "x86_64" if efi else "i386",
        }
        self._functions: dict[str, tuple[_Statement, ...]] = {}
        self._depth = 0
        self._path = ""
        self._script = ""
        self._loaded: MenuEntry | None = None
        self._title = ""

    def source(self, path: str) -> None:
        path = path[path.find(")") + 1 :] if path.startswith("(") else path
        text = self.files.get(path)
        if text is None or self._depth >= _DEPTH:
            return
        self._depth += 1
        before, self._path = (self._path, self._script), path
        scripts = [(number, line.split()[2]) for number, line in enumerate(text.splitlines(), 1)
                   if line.startswith("### BEGIN /")]  # fmt: skip
        self.run(tuple(_statements(text, 0, 1)[0]), scripts)
        self._path, self._script = before
        self._depth -= 1

    def expand(self, raw: tuple[tuple[_Part, ...], ...]) -> list[str]:
        expanded: list[str] = []
        for parts in raw:
            pieces = [""]
            quoted = False
            for text, is_variable, is_quoted in parts:
                value = self._value(text) if is_variable else text
                quoted |= is_quoted
                if is_variable and not is_quoted:
                    first, *more = re.split(r"[ \t\n]+", value)
                    pieces[-1] += first
                    pieces += more
                else:
                    pieces[-1] += value
            expanded += [piece for piece in pieces if piece or quoted]
        return expanded

    def _value(self, name: str) -> str:
        return self.environment.get(name, "y" if name.startswith("feature_") else "")

    def run(self, statements: tuple[_Statement, ...], scripts: list[tuple[int, str]] | None = None) -> None:
        # For each open `if`: whether its current branch runs, and whether one of its branches did.
        branches: list[list[bool]] = []
        for each in statements:
            if scripts is not None:
                self._script = next((name for number, name in reversed(scripts) if number <= each.line), "")
            active = all(branch[0] for branch in branches)
            command, *rest = self.expand(each.words) or [""]
            match command:
                case "if":
                    holds = active and self._holds(rest)
                    branches.append([holds, holds or not active])
                case "elif" if branches:
                    runs = not branches[-1][1] and self._holds(rest)
                    branches[-1] = [runs, runs or branches[-1][1]]
                case "else" if branches:
                    branches[-1] = [not branches[-1][1], True]
                case "while" | "until" | "for":
                    branches.append([False, True])
                case "fi" | "done" if branches:
                    branches.pop()
                case _ if active:
                    self._command(each, command, rest)

    def _command(self, each: _Statement, command: str, rest: list[str]) -> None:
        if command in ("menuentry", "submenu"):
            self._add(each, command, rest)
        elif command == "function" and rest:
            self._functions[rest[0]] = each.block or ()
        elif command in self._functions and self._depth < _DEPTH:
            self._depth += 1
            before = dict(self.environment)
            self.environment |= {str(number): word for number, word in enumerate(rest, 1)}
            self.run(self._functions[command])
            for name in map(str, range(1, len(rest) + 1)):
                self.environment[name] = before.get(name, "")
            self._depth -= 1
        elif command in ("set", "export") or re.match(r"[A-Za-z_]\w*=", command):
            for pair in [command] if "=" in command else rest:
                name, sign, value = pair.partition("=")
                if sign:
                    self.environment[name] = value
        elif command == "unset":
            for name in rest:
                self.environment.pop(name, None)
        elif command == "load_env":
            self._load_environment(rest)
        elif command in ("source", ".", "configfile") and rest:
            self.source(rest[0])
        elif command == "blscfg":
            self.items += _bls(self)
        elif command in _LOADS_LINUX and rest:
            place = f"{self._path}:{each.line}"
            self._loaded = MenuEntry(self._title, place, rest[0], tuple(rest[1:]), self._script)

    def _load_environment(self, rest: list[str]) -> None:
        path = f"{self.environment['prefix']}/grubenv"
        names: list[str] = []
        for number, word in enumerate(rest):
            if word in ("-f", "--file") and number + 1 < len(rest):
                path = rest[number + 1]
            elif not word.startswith("-") and rest[number - 1 : number] not in (["-f"], ["--file"]):
                names.append(word)
        stored = environment_block(self.files.get(path[path.find(")") + 1 :], ""))
        self.environment |= {name: value for name, value in stored.items() if not names or name in names}

    def _add(self, each: _Statement, command: str, rest: list[str]) -> None:
        title = rest[0] if rest else ""
        name = next((rest[number + 1] for number, word in enumerate(rest[:-1]) if word == "--id"), "")
        name = next((word.removeprefix("--id=") for word in rest if word.startswith("--id=")), name)
        inner = _Run(self.files, "", efi=False)
        inner.environment = dict(self.environment)
        inner._functions, inner._depth = self._functions, self._depth + 1
        inner._path, inner._script, inner._title = self._path, self._script, title
        if inner._depth < _DEPTH:
            inner.run(each.block or ())
        if command == "submenu":
            self.items.append(_Item(title, name, below=inner.items))
            return
        entry = inner._loaded or MenuEntry(title, f"{self._path}:{each.line}", script=self._script)
        self.items.append(_Item(title, name, entry))

    def _holds(self, condition: list[str]) -> bool:
        match condition:
            case ["!", *rest]:
                return not self._holds(rest)
            case ["[" | "test", *rest]:
                return self._test([word for number, word in enumerate(rest) if word != "]" or number + 1 < len(rest)])
            case ["true", *_]:
                return True
        return False

    def _test(self, asked: list[str]) -> bool:
        for joint, join in (("-o", any), ("-a", all)):
            if joint in asked:
                at = asked.index(joint)
                return join([self._test(asked[:at]), self._test(asked[at + 1 :])])
        match asked:
            case ["!", *rest]:
                return not self._test(rest)
            case ["-f" | "-s" | "-e", path]:
                return path[path.find(")") + 1 :] in self.files
            case ["-n", text] | [text]:
                return bool(text)
            case ["-z", text]:
                return not text
            case [left, "=" | "==", right]:
                return left == right
            case [left, "!=", right]:
                return left != right
            case [left, "-eq", right]:
                return left.isdecimal() and right.isdecimal() and int(left) == int(right)
        return asked == ["-z"]


# --- BLS entries


def _bls(run: _Run) -> list[_Item]:
    items = []
    for path, text in run.files.items():
        if not path.endswith(".conf") or "/loader/entries/" not in path:
            continue
        keys: dict[str, str] = {}
        place = f"{path}:1"
        for number, line in enumerate(text.splitlines(), 1):
            key, _, value = line.strip().partition(" ")
            if key == "options":
                place = f"{path}:{number}"
                value = f"{keys.get(key, '')} {value}"
            keys[key] = value.strip()
        name = path.rpartition("/")[2].removesuffix(".conf")
        options = keys.get("options", run.environment.get("default_kernelopts", ""))
        options = re.sub(r"\$(\w+)", lambda each: run.environment.get(each[1], ""), options)
        title = keys.get("title", name)
        kernel = (keys.get("linux", "").split() or [""])[0]
        items.append(_Item(title, name, MenuEntry(title, place, kernel, words(options), path)))
    # The newest first.
    return sorted(items, key=lambda item: _version(item.name), reverse=True)


def _version(name: str) -> list[tuple[int, int, str]]:
    """A key by which versions compare as rpm compares them: numbers are newer than letters; ~ is older than nothing."""
    pieces = re.findall(r"\d+|[A-Za-z]+|~", name)
    return [
        (-1, 0, "") if piece == "~" else (2, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces
    ] + [(0, 0, "")]


# --- which entry boots


def _entries(items: list[_Item]) -> Iterator[MenuEntry]:
    for item in items:
        if item.entry is not None:
            yield item.entry
        yield from _entries(item.below)


def _chosen(items: list[_Item], default: str) -> MenuEntry | None:
    """The entry that ``default`` means; the first one where it means none."""
    if not items:
        return None
    first, rest = _split(default)
    number = re.fullmatch(r"\s*(\d+)(?:\s.*)?", first)
    item = items[int(number[1])] if number and int(number[1]) < len(items) else None
    if number is None:
        item = next((each for each in items if first in (each.title, each.name) and first), None)
    item, rest = (items[0], "") if item is None else (item, rest)
    return item.entry if item.entry is not None else _chosen(item.below, rest)


def _split(default: str) -> tuple[str, str]:
    """The first part of ``A>B``; a doubled sign stands for itself."""
    parts = re.split(r"(?<!>)>(?!>)", default, maxsplit=1)
    return parts[0].replace(">>", ">"), parts[1] if len(parts) > 1 else ""
