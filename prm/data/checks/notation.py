"""What characters and commands show, in one notation for LaTeX, Unicode and ASCII.

Two notations are the same here if whoever typesets a text may choose between them.
"""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓₕₖₗₘₙₚₛₜᵢⱼᵣᵤᵥ", "0123456789+-=()aeoxhklmnpstijruv")
_RAISED = re.compile(f"[{''.join(map(chr, _SUPERSCRIPTS))}]+")
_LOWERED = re.compile(f"[{''.join(map(chr, _SUBSCRIPTS))}]+")

_ALIKE = {
    "-": "‐‑‒–—―−﹣",
    "'": "‘’‚‛′`´ʹʼ",
    '"': "“”„‟«»",
    "''": "″",
    "/": "÷∕",
    "*": "∗",
    "×": "✕✖⨯",
    "·": "⋅∙",
    "≤": "⩽≦",
    "≥": "⩾≧",
    "→": "⟶",
    "⇒": "⟹",
    "↦": "⟼",
    "←": "⟵",
    "⇐": "⟸",
    "↔": "⟷",
    "⇔": "⟺",
    "|": "∣",
    "‖": "∥",
    "~": "∼",
    "°": "º˚",
    ":": "∶",
    "⟨": "〈",
    "⟩": "〉",
    "...": "⋯",
    "δ": "∆",
    "\\sqrt[3]": "∛",
    "\\sqrt[4]": "∜",
}
"""Notation to the characters that are read as it."""

_WRITTEN = {
    char: f" {new} " if len(new) > 3 else new for new, old in _ALIKE.items() for char in old
}


class _Characters(dict[int, str]):
    """What each character is read as, found when it is first met."""

    def __missing__(self, code: int) -> str:
        found = self[code] = _read_as(chr(code))
        return found


def _read_as(char: str) -> str:
    """Return a character in its plain, lower-case form; "" for one that is not seen.

    ASCII letters keep their case, which tells commands apart.
    """
    if char.isascii():
        return char
    if unicodedata.category(char) == "Cf" or char in "\ufe0e\ufe0f":
        return ""
    if char in _WRITTEN:
        return _WRITTEN[char]
    plain = unicodedata.normalize("NFKC", char)
    if "\u2044" in plain:  # a fraction such as ½
        top, _, bottom = plain.partition("\u2044")
        return f" \\frac{{{top}}}{{{bottom}}} " if top and bottom else f"{top}/{bottom}"
    if unicodedata.category(char) == "No":  # a number in a circle
        return f" {plain} "
    folded = unicodedata.normalize("NFKC", plain.casefold())
    return folded if folded == char else "".join(map(_read_as, folded))


_CHARACTERS = _Characters()


def plain_characters(text: str) -> str:
    """Return a text in characters that are written in one way each."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda run: f"^{{{run[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _LOWERED.sub(lambda run: f"_{{{run[0].translate(_SUBSCRIPTS)}}}", text)
    text = _THIN.sub(r"\\,", text)
    text = unicodedata.normalize("NFC", text).translate(_CHARACTERS)
    return unicodedata.normalize("NFC", text)


_THIN = re.compile("(?<=[0-9])[\u2009\u202f](?=[0-9])")
_THOUSANDS = re.compile(
    r"(?<![\d.,])[1-9]\d{0,2}(?:(?:,\d{3})+|(?:\\[,; ]\d{3})+)(?!\d|,\d)", re.ASCII
)
_ESCAPED = re.compile(r"\\n(?![a-z]|Left|Right|V)")
"""A line feed that was escaped twice, as in PRMBench."""

_NO_SPACE = re.compile(r"\\!(?:\\,)?|\\,\\!")
_SEPARATORS = re.compile(r"\\[,; ]|,")
_QUOTED = re.compile(r"``([^`']*)''")
_SUFFIXED = re.compile(r"(?:\$|\\\() ?([A-Za-z]) ?(?:\$|\\\))([A-Za-z]+)")
_TIE = re.compile(r"(?<=\S)~(?=\S)")


def plain_spelling(text: str) -> str:
    """Return a text with one spelling of what several characters write."""
    if "," in text or "\\" in text:
        text = _NO_SPACE.sub("", _ESCAPED.sub(" ", text)).replace("{,}", ",")
        text = _THOUSANDS.sub(_without_separators, text)
    if "``" in text:
        text = _QUOTED.sub(r'"\1"', text)
    if "$" in text or "\\" in text:
        text = _SUFFIXED.sub(r"$\1\2$", _TIE.sub(" ", text))
    return text


def _without_separators(number: re.Match[str]) -> str:
    """Return a number without what separates its thousands; a pair such as (1,234) stays."""
    text, start, end = number.string, number.start(), number.end()
    is_opened = text.endswith(("(", "[", "\\{"), 0, start)
    is_pair = is_opened and text.startswith((")", "]", "\\}"), end)
    return number[0] if is_pair else _SEPARATORS.sub("", number[0])


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _pairs(text: str) -> dict[str, str]:
    words = text.split()
    return {f"\\{name}": symbol for name, symbol in zip(words[::2], words[1::2], strict=True)}


SYMBOLS = {
    "*": "×",
    "<=": "≤",
    ">=": "≥",
    "`": "'",
    **_pairs(
        r"""
        ne ≠  neq ≠  le ≤  leq ≤  leqslant ≤  leqq ≤  ge ≥  geq ≥  geqslant ≥  geqq ≥  cdot ·
        cdotp ·  ldots ...  dots ...  cdots ...  dotsc ...  dotsb ...  dotsm ...  to →
        rightarrow →  longrightarrow →  implies ⇒  Rightarrow ⇒  Longrightarrow ⇒  mapsto ↦
        longmapsto ↦  gets ←  leftarrow ←  longleftarrow ←  impliedby ⇐  Leftarrow ⇐
        Longleftarrow ⇐  leftrightarrow ↔  longleftrightarrow ↔  iff ⇔  Leftrightarrow ⇔
        Longleftrightarrow ⇔  mid |  vert |  lvert |  rvert |  Vert ‖  lVert ‖  rVert ‖
        parallel ‖  emptyset ∅  varnothing ∅  land ∧  wedge ∧  lor ∨  vee ∨  neg ¬  lnot ¬
        setminus ∖  backslash ∖  textbackslash ∖  lbrace \{  rbrace \}  lbrack [  rbrack ]
        degree °  textdegree °  div /  slash /  prime '  ast ×  times ×  sim ~  pm ±  mp ∓  star ⋆
        circ ∘  bullet •  infty ∞  propto ∝  simeq ≃  cong ≅  approx ≈  equiv ≡  in ∈  notin ∉
        ni ∋  subset ⊂  supset ⊃  subseteq ⊆  supseteq ⊇  cup ∪  cap ∩  sum ∑  prod ∏  int ∫
        oint ∮  partial ∂  nabla ∇  forall ∀  exists ∃  angle ∠  triangle △  perp ⊥  lfloor ⌊
        rfloor ⌋  lceil ⌈  rceil ⌉  langle ⟨  rangle ⟩  oplus ⊕  otimes ⊗  ell l  hbar ħ  lt <
        gt >  colon :  therefore ∴  because ∵  square □
        """
    ),
    **_pairs(
        """
        alpha α  beta β  gamma γ  Gamma γ  delta δ  Delta δ  epsilon ε  varepsilon ε  zeta ζ
        eta η  theta θ  vartheta θ  Theta θ  iota ι  kappa κ  lambda λ  Lambda λ  mu μ  nu ν  xi ξ
        Xi ξ  pi π  varpi π  Pi π  rho ρ  varrho ρ  sigma σ  varsigma σ  Sigma σ  tau τ  upsilon υ
        Upsilon υ  phi φ  varphi φ  Phi φ  chi χ  psi ψ  Psi ψ  omega ω  Omega ω
        """
    ),
    **_pairs(
        r"""| ‖  { \{  } \}  / /  ' '  ` '  * ×  % %  # #  & &  _ _  " "  - -  ^ ^  ~ ~  = ="""
    ),
}
"""What is read, to the symbol that it shows."""

FUNCTIONS = _names(
    "arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf ker lcm lg lim "
    "liminf limsup ln log max min mod pr sec sin sinh sup tan tanh"
)
"""Commands that show their own name, which is a function of what follows."""

UNSEEN = _names(
    "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm Bigm "
    "displaystyle textstyle scriptstyle scriptscriptstyle limits nolimits quad qquad enspace "
    "thinspace negthinspace space noindent par newline hfill centering tiny small normalsize "
    "large Large LARGE huge Huge bf rm it sf tt sl em cal bfseries itshape rmfamily mathstrut "
    "strut null relax protect medskip smallskip bigskip hline allowbreak left. right. middle. "
    ", ; : > ! $ n \\"
)
"""Commands that show nothing themselves."""

FONTS = _names(
    "text textbf textit textrm textsf texttt textnormal textup textsc emph mathrm mathbf mathit "
    "mathsf mathtt mathbb mathcal mathfrak mathscr mathnormal mbox hbox boldsymbol bm pmb "
    "operatorname operatorname* mathop mathbin mathrel mathord ensuremath boldmath"
)
"""Commands that show their argument."""

HIDDEN = _names("hspace hspace* vspace vspace* hskip phantom hphantom vphantom label")
"""Commands that hide their argument."""

LAYOUTS = _names(
    "align aligned alignat gather gathered equation split multline eqnarray displaymath math "
    "center document flushleft"
)
"""Environments that place what is in them, and nothing more."""
