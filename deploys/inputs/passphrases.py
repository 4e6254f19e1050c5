"""Whether a passphrase is public or easily guessed."""

from __future__ import annotations

import difflib

LENGTH = 8

# Without spaces, punctuation and capitals: the node's default, the usual pangram, and the guide's placeholder.
_PUBLIC = (
    "packmyboxwithfivedozenliquorjugs",
    "thequickbrownfoxjumpsoverthelazydog",
    "coordinatedpresharedkeyforp2pnetwork",
)
# Similarity (0 to 1) above which a passphrase is taken for a misspelt public one.
_SIMILAR = 0.9
# Words of placeholders and of common password lists. A passphrase of only these can be guessed.
_WORDS = frozenset(
    """
    a abc access account admin administrator an any as at bar baseball be blank box bitcoin change changed changeit
    changeme cluster code coordinated correct crypto data database default demo deploy dev do dragon dummy edit empty
    enter example fake false fill fixme foo football for gevulot gpu guest hello here host hunter i iloveyou in insert
    is it key letmein login lab local master me miner monkey mustbechanged my network new no node nodes none not now
    null of on operator or our p2p pass passphrase passwd password passwort peer peers pgpass phrase place placeholder
    please postgres preshared princess private prod production prover psk public pw pwd qwerty replace required root
    sample secret secure server set shared some something staging string super supersecret sunshine system temp test
    tested testing text the this to todo token top topsecret true unset update use user value welcome with word world
    xxx yes you your zero
    """.split()  # noqa: SIM905
)
_LONGEST = max(map(len, _WORDS))
_ROWS = ("abcdefghijklmnopqrstuvwxyz", "qwertyuiop", "asdfghjkl", "zxcvbnm", "azertyuiop", "qwertzuiop")
_RUNS = (*_ROWS, *(row[::-1] for row in _ROWS))
# Digits and signs in place of letters.
_FOLDED = (str.maketrans("@4301$57", "aaeolsst"), str.maketrans("@4301$57", "aaeoisst"))
# Digits alone are as good as a passphrase when there are many of them.
_MANY_DIGITS = 20
_FEW_CHARACTERS = 5


def find_problem(text: str) -> str | None:
    """What was expected instead of this passphrase, or ``None``. Says nothing of the passphrase itself."""
    plain = "".join(each for each in text.casefold() if each.isalnum() or each in "@$")
    letters = "".join(each for each in plain if each.isalnum())
    if any(_is_like(letters, public) for public in _PUBLIC):
        return "expected the network's own; this one is public, so everybody could join"
    if len(text) < LENGTH:
        return f"expected at least {LENGTH} characters; a shorter one can be guessed"
    if len(set(letters or text)) < _FEW_CHARACTERS or _is_made_of_words(plain):
        return (
            "expected the network's own; this one is public or easily guessed (common words, digits, repetition), so "
            "everybody could join"
        )
    return None


def _is_like(text: str, public: str) -> bool:
    # An upper bound first: the comparison itself takes quadratic time.
    if abs(len(text) - len(public)) > len(public) // 4:
        return False
    return difflib.SequenceMatcher(None, text, public, autojunk=False).ratio() >= _SIMILAR


def _is_made_of_words(text: str) -> bool:
    if text.isdigit():
        return len(text) < _MANY_DIGITS
    # Where a row of common words, digits, and runs of the keyboard or the alphabet can end.
    ends = {0}
    for end in range(1, len(text) + 1):
        starts = (start for start in range(max(0, end - _LONGEST - len(_RUNS[0])), end) if start in ends)
        if any(_is_common(text[start:end]) for start in starts):
            ends.add(end)
    return len(text) in ends


def _is_common(piece: str) -> bool:
    if piece.isdigit() or (len(piece) > 2 and any(piece in run for run in _RUNS)):
        return True
    return any(each in _WORDS for each in (piece, *(piece.translate(folded) for folded in _FOLDED)))
