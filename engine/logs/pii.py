"""Personal data and secrets in chat logs, replaced by placeholders such as <EMAIL_1>.

One value has one placeholder throughout a `Scrubber`, so a conversation stays readable. Numbers are recognised by
their form and, where there is one, by their check digit, so that years, measurements, versions and short order numbers
stay. Names and postal addresses have no form and stay; so do e-mail addresses in scripts that write words without
spaces, where nothing separates the address from the text before it.

A new kind is one `Kind` in `KINDS`. Their order matters: a later kind does not see what an earlier one replaced.
"""

from __future__ import annotations

import ipaddress
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of a payment card number (ISO/IEC 7812-1)."""
    doubled = [int(d) * (1 + place % 2) for place, d in enumerate(reversed(digits))]
    return sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0


def is_resident_id(text: str) -> bool:
    """Whether 18 characters are a Chinese resident identity number (GB 11643), with its date and check digit."""
    try:
        born = date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * (2 ** (17 - place) % 11) for place, digit in enumerate(text[:17]))
    return born.year >= 1900 and "10X98765432"[total % 11] == text[17].upper()


def is_iban(text: str) -> bool:
    """Whether the check digits of an account number are right (ISO 13616: the number modulo 97 is 1)."""
    plain = re.sub(r"\s", "", text).upper()
    number = "".join(str(int(character, 36)) for character in plain[4:] + plain[:4])
    return 15 <= len(plain) <= 34 and int(number) % 97 == 1


def _plain_digits(text: str) -> str:
    """The text with the digits of every script as 0 to 9, as long as before: full-width or Arabic ones make numbers."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.digit(c)) if ord(c) > 127 and c.isdecimal() else c for c in text)


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


# First digits and lengths that payment networks use: without them a tenth of all long numbers would pass Luhn.
_CARD = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|6(?:011|5\d\d|4[4-9]\d)\d{12}|62\d{14,17}"
)


def _is_card(match: re.Match[str]) -> bool:
    digits = _digits(match[0])
    return bool(_CARD.fullmatch(digits)) and luhn(digits)


def _is_public_ip(match: re.Match[str]) -> bool:
    """Whether it is an address of the public internet; private and reserved ones identify nobody.

    Four small numbers are a section or an enzyme (EC 3.2.1.1); a last number of 0 is a network or a browser's version.
    """
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    parts = [int(part) for part in match[0].split(".")] if address.version == 4 else [255]
    return address.is_global and parts[-1] != 0 and (parts[0] > 9 or max(parts) > 99)


_DAY, _YEAR = r"\d\d?[-./]\d\d?", r"(?:19|20)\d\d"
_DATE = re.compile(rf"\+?(?:{_YEAR}[-./]{_DAY}|{_DAY}[-./]{_YEAR}|{_YEAR}[-/]{_YEAR})(?!\d)")


def _is_phone(match: re.Match[str]) -> bool:
    """Whether it has 7 to 15 digits (E.164), 10 to 12 with a leading zero, and is no date, round number or decimal."""
    value = _value(match)
    digits = _digits(value)
    if digits.endswith("00000") or len(set(digits)) == 1 or re.fullmatch(r"\+?\d+[.,]\d+", value):
        return False
    if _DATE.match(value) or value.count("/") > 1:
        return False
    national = digits.startswith("0") and not digits.startswith("00")
    return 10 <= len(digits) <= 12 if national else 7 <= len(digits) <= 15


def _is_token(match: re.Match[str]) -> bool:
    """Whether letters and digits are mixed; words and numbers joined by hyphens are a name that somebody chose."""
    value = _value(match)
    pieces = re.split(r"[^A-Za-z0-9]+", value)
    return any(
        re.search(r"\d", piece) and re.search(r"[A-Za-z]{2}|\d[A-Za-z]+\d", piece) for piece in pieces
    ) and not all(re.fullmatch(r"[A-Za-z]+\d{0,4}|\d*", piece) for piece in pieces)


def _is_password(match: re.Match[str]) -> bool:
    return bool(re.search(r"[\d!@#$%^&*]", _value(match)))  # 'the password is incorrect' reveals none


def _value(match: re.Match[str]) -> str:
    """The part of a match to replace: its group `value`, or all of it."""
    return match["value"] if "value" in match.re.groupindex else match[0]


def _phone_identity(text: str) -> str:
    """The digits of a subscriber, the same with the country's code and without it."""
    return _digits(text)[-10:]


@dataclass(frozen=True)
class Kind:
    """A kind of personal data.

    `accepts` decides which matches of the pattern count; two matches with one `identity` are the same value.
    """

    name: str
    pattern: re.Pattern[str]
    accepts: Callable[[re.Match[str]], bool] = lambda match: True
    identity: Callable[[str], str] = str.strip


def _kind(name: str, pattern: str, *rest: Callable[..., Any]) -> Kind:
    return Kind(name, re.compile(pattern, re.VERBOSE), *rest)


# Between a label and its value: 'is' in one of the languages, a sign, or both.
_IS = (
    r"""["'`\u201d]?\s{0,3}(?:(?:\bis|[\u662f\u4e3a])\s{0,2}[=:\uff1a]|=>|:=|[=:\uff1a]"""
    r"""|\b(?:ist?|est?|\u00e9|\u00e8)\b|[\u662f\u4e3a\u306f])"""
    r"""\s{0,3}["'`\u201c]?"""
)
# A label of several words may be followed by nothing but a space; 'token' or 'key' alone may not.
_LONG_KEY_LABEL = r"""(?:(?:api|access|secret|private|auth|session|subscription|encryption|signing|account)[_\s-]?
  (?:key|token|secret)(?:[_\s-]?id)?|client[_\s-]?secret|\u5bc6\u94a5|\u79d8\u94a5|\u4ee4\u724c)"""
_KEY_LABEL = rf"""(?:{_LONG_KEY_LABEL}|(?<![A-Za-z])token|(?<![A-Za-z])secret|[_-](?:token|secret|key)|(?<![A-Za-z])key
  |(?-i:(?<=[a-z])(?:Key|Token|Secret))|authorization)"""
# The languages of logs: German, French, Spanish, Portuguese, Italian, Dutch, Polish, Russian, Japanese, Korean.
_PASSWORD_LABEL = r"""(?:pass[_\s-]?(?:word|phrase|code)|passwd|(?<![A-Za-z])pwd|\u5bc6\u7801|\u53e3\u4ee4|\u5bc6\u78bc
  |passwor[td]|kennwort|mot\ de\ passe|contrase(?:\u00f1|n)a|(?<![A-Za-z])senha|wachtwoord|has\u0142o
  |\u043f\u0430\u0440\u043e\u043b\u044c|\u30d1\u30b9\u30ef\u30fc\u30c9|\ube44\ubc00\ubc88\ud638)"""
_PHONE_LABEL = r"""(?:(?<![A-Za-z])(?:tele)?phone|(?<![A-Za-z])tel(?![a-z])|(?<![A-Za-z])mobile
  |cell(?:\ ?phone|\ number)
  |my\ cell
  |whatsapp|(?<![A-Za-z])fax|call\ me\ (?:at|on)|reach\ me\ (?:at|on)
  |telefone?|t[e\u00e9]l[e\u00e9]fono|t\u00e9l(?:\u00e9phone)?|(?<![A-Za-z])handy(?:nummer)?|m\u00f3vil|celular
  |\u0442\u0435\u043b\u0435\u0444\u043e\u043d|\u0442\u0435\u043b\.|\u96fb\u8a71|\u643a\u5e2f|\u624b\u6a5f
  |\uc804\ud654|\ud734\ub300\ud3f0|\u7535\u8bdd|\u624b\u673a|\u8054\u7cfb\u65b9\u5f0f|\u81f4\u7535|\u4f20\u771f)"""
# No word or decimal goes on into the number; a Chinese character may stand on either side.
_STARTS = r"(?<![\dA-Za-z_])(?<!\d[.,])"
_ENDS = r"(?![\dA-Za-z])(?![.,]\d)"
# Letters beyond a to z in scripts with spaces between words. Chinese and its neighbours have none: '邮箱是a@b.cn'.
_LETTERS = (
    r"\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u0300-\u036f\u0370-\u037d\u0386-\u03ff\u0400-\u0481\u048a-\u0556"
    r"\u0561-\u0587\u05d0-\u05ea\u0620-\u065f\u0900-\u0963\u1e00-\u1fff"
)
_ALNUM = rf"A-Za-z0-9{_LETTERS}"
_UNIT = r"(?:[\u00b5\u03bcmcknM]?(?:g|m|l|L|s|W|V|A|Hz|eV|mol)|kcal|bytes?|[KMGT]?i?B|rpm|[%\u00b0\u20ac$])(?![A-Za-z])"

KINDS: tuple[Kind, ...] = (
    _kind(
        "KEY",
        r"""-----BEGIN\ [A-Z\ ]{0,30}PRIVATE\ KEY-----[A-Za-z0-9+/=\s\\]{16,}?
        -----END\ [A-Z\ ]{0,30}PRIVATE\ KEY-----""",
    ),
    _kind("PASSWORD", r"://[^/\s:@]{1,64}:(?P<value>[^/\s@]{1,128})@(?=[\w.-])"),
    _kind(
        "EMAIL",
        rf"""(?<![{_ALNUM}._%+-])(?!git@)[{_ALNUM}._%+-]{{1,64}}[@\uff20]
        (?:[{_ALNUM}](?:[{_ALNUM}-]{{0,62}})\.){{1,8}}
        (?!(?:png|jpe?g|gif|svg|webp|css|js)(?![A-Za-z0-9]))[A-Za-z{_LETTERS}]{{2,24}}(?![{_ALNUM}])""",
        lambda match: True,
        str.casefold,
    ),
    # Prefixes that only one provider uses: any letters after them are a key, with digits or without.
    _kind(
        "KEY",
        r"""(?a:(?<![A-Za-z0-9])(?:
          sk-(?:ant|proj|svcacct|admin)-[\w-]{16,} | [srp]k_(?:live|test)_[A-Za-z0-9]{16,}
        | gh[opusr]_[A-Za-z0-9]{36,} | github_pat_[A-Za-z0-9]{16,}\w* | glpat-[\w-]{20,}
        | AKIA[0-9A-Z]{16} | LTAI[A-Za-z0-9]{12,30} | AIza[\w-]{35}
        | xox[abeoprs]-[A-Za-z0-9-]{10,} | hf_[A-Za-z0-9]{30,} | npm_[A-Za-z0-9]{36} | pypi-AgE[\w-]{40,}
        | (?:(?<=AccountKey=)|(?<=AccessKey=))[A-Za-z0-9+/]{20,}={0,2}   # in an Azure connection string
        | eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}   # a JSON web token
        )(?![A-Za-z0-9]))""",
    ),
    # Prefixes that a name may have as well: OpenAI's older keys and those who followed them, AWS for a session.
    _kind("KEY", r"(?<![A-Za-z0-9])(?:sk-[A-Za-z0-9_-]{20,}|ASIA[0-9A-Z]{16})(?![A-Za-z0-9])", _is_token),
    _kind(
        "KEY",
        rf"""(?:(?i:{_KEY_LABEL}){_IS}(?:(?i:bearer|basic|token)\s+)?|(?i:{_LONG_KEY_LABEL})\s{{1,3}}["'`\u201c]?)
        (?P<value>[A-Za-z0-9+/][A-Za-z0-9+/_.~=-]{{15,}})""",
        _is_token,
    ),
    _kind("KEY", r"(?i:\bbearer)\s+(?P<value>[A-Za-z0-9][A-Za-z0-9+/_.~=-]{15,})", _is_token),
    _kind(
        "PASSWORD",
        rf"(?i:{_PASSWORD_LABEL})\s?{_IS}(?P<value>[A-Za-z0-9!@#$%^&*_.+?-]{{6,64}})(?<![.?!])",
        _is_password,
    ),
    _kind("ID", rf"{_STARTS}[1-9]\d{{16}}[\dXx](?![\dA-Za-z])", lambda match: is_resident_id(match[0]), str.upper),
    _kind(
        "ID", rf"{_STARTS}(?<!-)(?!000|666|9)\d{{3}}-(?!00)\d\d-(?!0000)\d{{4}}(?![\d-]){_ENDS}"
    ),  # US social security
    _kind(
        "IBAN",
        r"(?<![A-Za-z0-9])[A-Z]{2}\d\d(?:\ ?[A-Z0-9]{4}){2,7}(?:\ ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])",
        lambda match: is_iban(match[0]),
        lambda text: text.replace(" ", ""),
    ),
    *(
        _kind("CARD", _STARTS + digits + _ENDS, _is_card, _digits)
        for digits in (
            r"\d{4}(?:[ .-]\d{4}){3}[ .-]\d{3}",
            r"\d{4}(?:[ .-]\d{4}){3}",
            r"3\d{3}[ .-]\d{6}[ .-]\d{4,5}",
            r"\d{13,19}",
        )
    ),
    _kind(
        "IP",
        r"(?<![\w.-])(?<![^/]/)(?<![vV])(?<![vV]ersion\ )(?<!EC\ )(?<!EC:)(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)",
        _is_public_ip,
    ),
    _kind(
        "IP",
        r"(?<![\w:.])(?=[0-9A-Fa-f:]*\d)(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{0,4}(?![\w:])",
        _is_public_ip,
        str.lower,
    ),
    _kind(
        "PHONE",
        rf"""{_STARTS}(?<![+])(?<!\d-)(?:
          (?:(?:\+|00)86[ -]?)?1[3-9]\d(?:\d{{8}}|[ -]\d{{4}}[ -]\d{{4}})           # Chinese mobile
        | (?:0\d{{2,3}}[ -]|\(0\d{{2,3}}\)[ -]?)[2-9]\d{{6,7}}                        # Chinese landline
        | (?:\+?1[ .-]?)?(?:\([2-9]\d\d\)\ ?|[2-9]\d\d[.-])[2-9]\d\d[ .-]\d{{4}}      # North America
        | (?<!\d\ )(?:1\ )?[2-9]\d\d\ [2-9]\d\d\ \d{{4}}(?!\ ?(?:\d|{_UNIT}))  # the same, bare: no row of numbers
        | 0[1-9]\d{{1,3}}[ -]\d{{3,4}}(?:[ -]\d{{3,4}}|\d{{3}})                           # British and alike
        | 0[1-9](?:[ .-]\d\d){{4}}                                                  # French
        ){_ENDS}""",
        _is_phone,
        _phone_identity,
    ),
    _kind(
        "PHONE",
        rf"""(?<![\w+])(?<!\d\ )(?:\+|00(?=\d{{2}}[ -]))[1-9](?:[ ./-]{{0,2}}\(?\d\)?){{7,14}}{_ENDS}""",
        _is_phone,
        _phone_identity,
    ),
    _kind(
        "PHONE",
        rf"""(?i:{_PHONE_LABEL}\.?\s?(?:(?:number|no\.?|nr\.?)|\u53f7\u7801?)?)(?:{_IS}|[\s.]{{1,2}}|(?=\d))
        (?P<value>\+?\(?\d(?:[ ./()-]{{0,2}}\d){{6,14}}){_ENDS}""",
        _is_phone,
        _phone_identity,
    ),
)


class Scrubber:
    """Replaces personal data in the texts and JSON values of one conversation.

    `counts`: replacements by kind. `distinct`: different values by kind.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._numbers: dict[str, dict[str, int]] = {}

    @property
    def distinct(self) -> dict[str, int]:
        return {name: len(values) for name, values in self._numbers.items()}

    def text(self, text: str) -> str:
        """Return `text` with placeholders. A text that is a JSON object or array stays one."""
        if text.lstrip()[:1] in ("{", "["):
            inside = self._json(text)
            if inside is not None:
                return inside
        plain = _plain_digits(text)
        for kind in KINDS:
            text, plain = self._without(kind, text, plain)
        return text

    def _without(self, kind: Kind, text: str, plain: str) -> tuple[str, str]:
        """A text, and the same with plain digits, which is searched, with placeholders for one kind."""
        old, new, new_plain = 0, "", ""
        for match in kind.pattern.finditer(plain):
            if kind.accepts(match):
                start, end = match.span("value" if "value" in match.re.groupindex else 0)
                placeholder = self._placeholder(kind, _value(match))
                new += text[old:start] + placeholder
                new_plain += plain[old:start] + placeholder
                old = end
        return new + text[old:], new_plain + plain[old:]

    def value(self, value: Any, label: str = "") -> Any:
        """Return a JSON value with placeholders in its texts, its keys and its long whole numbers.

        `label` is the key of the value: {"token": "..."} says as much as "token=...".
        """
        if isinstance(value, dict):
            inside: dict[Any, Any] = {}
            for key, inner in value.items():
                name = self.text(key) if isinstance(key, str) else key
                while name in inside:  # two spellings of one address have one placeholder, and both values stay
                    name = f"{name}'"
                inside[name] = self.value(inner, str(key))
            return inside
        if isinstance(value, (list, tuple)):
            return [self.value(item, label) for item in value]
        if isinstance(value, str):
            return self._labelled(value, label)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**6:
            text = self._labelled(str(value), label)
            return text if re.fullmatch(r"<[A-Z]+_\d+>", text) else value
        return value

    def _labelled(self, text: str, label: str) -> str:
        before = f"{label}: "
        if not label or text.lstrip()[:1] in ("{", "["):
            return self.text(text)
        scrubbed = self.text(before + text)
        return scrubbed.removeprefix(before) if scrubbed.startswith(before) else self.text(text)

    def _json(self, text: str) -> str | None:
        """The JSON document with placeholders inside, unchanged if there are none; None if it is not JSON."""
        try:
            document = json.loads(text)
            changed = self.value(document)
        except (ValueError, RecursionError):
            return None
        return text if changed == document else json.dumps(changed, ensure_ascii=False)

    def _placeholder(self, kind: Kind, value: str) -> str:
        numbers = self._numbers.setdefault(kind.name, {})
        number = numbers.setdefault(kind.identity(value), len(numbers) + 1)
        self.counts[kind.name] += 1
        return f"<{kind.name}_{number}>"
