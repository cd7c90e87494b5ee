"""Tokens to text: characters as soon as they are whole, up to a stop string."""

import codecs
from collections.abc import Sequence

from hornbook.text.forms import at_any_line_end
from hornbook.text.tokenizer import Tokenizer


class Text:
    """The text of a generation, token by token.

    Each character comes as soon as all its bytes are there. Bytes that are not UTF-8 become U+FFFD;
    a character cut off by the end is left out.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._bytes = tokenizer.token_bytes()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._until = StopStrings(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._until.found

    def push(self, token: int) -> str:
        """The text that became certain with this token."""
        return self._until.push(self._utf8.decode(self._bytes[token]))

    def end(self) -> str:
        """The text held back as the possible beginning of a stop string, after the last token."""
        return self._until.end()


class StopStrings:
    """Passes text on up to the first stop string; holds back what may be the beginning of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.found = False
        self._stop = [form for each in stop if each for form in at_any_line_end(each)]
        self._beginnings = {each[:n] for each in self._stop for n in range(1, len(each))}
        self._longest = max(map(len, self._beginnings), default=0)
        self._held = ""

    def push(self, piece: str) -> str:
        """The text before any stop string that became certain with this piece."""
        if not self._stop or self.found:
            return "" if self.found else piece
        text = self._held + piece
        places = [place for place in map(text.find, self._stop) if place >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        lengths = range(min(self._longest, len(text)), 0, -1)
        keep = next((n for n in lengths if text[-n:] in self._beginnings), 0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held


def start_token(tokenizer: Tokenizer) -> int:
    """What stands in for an empty prompt: a newline, or token 0 in a vocabulary without one."""
    newline = tokenizer.fit("\n", "skip")[0]
    return tokenizer.encode(newline)[0] if newline else 0
