"""Problems in many layouts: found whatever the layout, and never taken for one another."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm.data.checks.latex import plain_tokens
from prm.data.checks.problems import LONG, ProblemIndex, Problems, normalize_problem, problem_text
from prm.data.formats import Format
from prm.data.formats.base import PROBLEM
from prm.data.formats.big_bench_mistake import BigBenchMistake
from prm.data.formats.dia_safety import DiaSafety
from prm.data.formats.fine_grained_rlhf import FineGrainedRLHF
from prm.data.formats.halu_eval import HaluEval
from prm.data.formats.hh_dialogues import HHDialogues
from prm.data.formats.hhh import HHH
from prm.data.formats.llmbar import LLMBar
from prm.data.formats.mr_ben import MRBen
from prm.data.formats.outcome_columns import OutcomeColumns
from prm.data.formats.pandalm import PandaLM
from prm.data.formats.prm800k_validation import PRM800KValidation
from prm.data.formats.prm_bench import PRMBench
from prm.data.formats.process_bench import ProcessBench
from prm.data.formats.truthful_qa import TruthfulQA
from prm.data.sources.source import Skipped, Source
from prm.records import Chain, prompt_text

# One problem each, in layouts of which the first is the one to be found.

LAYOUTS = {
    "delimiters": [
        r"Let $x$ be 3. Find \[x^2 + 1.\]",
        r"Let \(x\) be 3. Find $$x^2 + 1.$$",
        r"Let x be 3. Find x^2 + 1.",
        "Let x be 3. Find x² + 1.",
        "Let $x$ be 3.\n\nFind\n\\begin{align*}\nx^{2}+1.\n\\end{align*}",
    ],
    "operators": [
        r"Is $2 \times 3 \cdot 4 \div 6 \leq 5$ or $\geq 5$ or $\neq 5$?",
        "Is 2 × 3 · 4 ÷ 6 ≤ 5 or ≥ 5 or ≠ 5?",
        "Is 2*3*4/6 <= 5 or >= 5 or ≠ 5?",
        r"Is $2\times3\cdot4\div6\le5$ or $\ge5$ or $\ne5$?",
        r"Is $2\times3\cdot4\div6\leqslant5$ or $\geqslant5$ or $\not= 5$?",
    ],
    "minus": ["What is -3 - 4?", "What is −3 − 4?", "What is –3 – 4?", "What is ‑3 ‐ 4?"],
    "text in formulas": [
        r"A rod is $5\text{ cm}$ long.",
        r"A rod is $5\,\mathrm{cm}$ long.",
        r"A rod is $5\mbox{ cm}$ long.",
        r"A rod is 5\;cm long.",
        "A rod is 5 cm long.",
    ],
    "quotes": [
        """Ann's "step" isn't 'a' stair.""",
        "Ann’s “step” isn’t ‘a’ stair.",
        "Ann's ``step'' isn't `a' stair.",
    ],
    "what is not seen": [
        "How many apples does she have?",
        "How\u200b many app\u00adles\u00a0does she have?",
        "\ufeffHow many  apples\tdoes\nshe have ?",
        "HOW MANY APPLES DOES SHE HAVE",
    ],
    "thousands": [
        "Add 1,000 and 23,456,789.",
        "Add 1000 and 23456789.",
        "Add $1{,}000$ and $23{,}456{,}789$.",
        r"Add $1\,000$ and $23\,456\,789$.",
        r"Add $1,\!000$ and $23,\!456,\!789$.",
        "Add 1\u202f000 and 23\u202f456\u202f789.",
    ],
    "fractions": [
        r"Halve $\frac{1}{2}$ and $3\frac{4}{5}$.",
        r"Halve $\dfrac12$ and $3\tfrac45$.",
        r"Halve \frac 1 2 and 3\frac 4 5.",
        "Halve 1/2 and 3 4/5.",
        "Halve ½ and 3⅘.",
    ],
    "degrees, percents, dollars": [
        r"Take $30\%$ of $\$5$ at $90^\circ$.",
        "Take 30% of $5 at 90°.",
        r"Take 30\% of \$5 at $90^{\circ}$.",
        r"Take $30$\% of 5 at $90\degree$.",
    ],
    "sizes": [
        r"Expand $\left( x + 1 \right)$.",
        r"Expand $\displaystyle\bigl(x+1\bigr)$.",
        r"Expand $\!(x\!+\!1)$.",
        "Expand (x+1).",
    ],
    "Greek letters, roots, dots": [
        r"Is $1, \ldots, 2\pi r$ below $\sqrt{2}$ or $\sqrt{x+1}$?",
        "Is 1, ..., 2πr below √2 or √(x+1)?",
        r"Is $1, \dots, 2 \pi r$ below $\sqrt2$ or $\sqrt{x + 1}$?",
        "Is 1, …, 2πr below √(2) or √(x + 1)?",
    ],
    "an instruction around it": [
        "What is 2 + 2?",
        "Solve step by step: What is 2 + 2?",
        r"What is 2 + 2? Put your final answer in \boxed{}.",
        "Question: What is 2 + 2?\nAnswer:",
        "Problem: What is 2 + 2?",
        "Problem 12. What is 2 + 2?",
        "Q: What is 2 + 2?\nA:",
        "What is 2 + 2? Let's think step by step.",
        "Solve the following math problem step by step.\n\nWhat is 2 + 2?\n\nShow your work.",
        "Please reason step by step, and put your final answer within \\boxed{}.\nWhat is 2 + 2?",
        r"What is 2 + 2? Please reason step by step, and put your final answer within $\boxed{}$.",
    ],
    "wide characters": ["Add １ + ２ to ab.", r"Add 1 + 2 to $a\!\,b$."],
    "the rest": [
        r"For the $n$th term, $f^\prime(x) = 10^{-3}$ in ${x}^{10}$, the set $\{1, 2\}$ (mod $7$).",
        r"For the nth term, $f'(x) = 10⁻³$ in x¹⁰, the set {1,2} (mod 7).",
        r"For the \(n\)th term, \(f′(x)=10^{-3}\) in \(x^{10}\), the set \(\{1,2\}\) \pmod{7}.",
    ],
}
PAIRS = [(layouts[0], other) for layouts in LAYOUTS.values() for other in layouts[1:]]


@pytest.mark.parametrize(("first", "other"), PAIRS)
def test_every_layout_of_a_problem_is_found(first: str, other: str) -> None:
    assert normalize_problem(other) == normalize_problem(first)
    for indexed, sought in ((first, other), (other, first)):
        index = ProblemIndex.of([Chain(indexed, ["x"], source="e")])
        assert index.sets_with(Chain(sought, ["x"])) == {"e"}


def test_there_are_layouts_enough() -> None:
    assert len(PAIRS) >= 33


LOOK_ALIKES = [
    ("1 1 + 2", "11 + 2"),
    ("1 1 + 2", "1 + 1 2"),
    ("3!", "3"),
    ("What is n!?", "What is n?"),
    ("x^{12}", "x^12"),
    ("x^{12}", "x^1 2"),
    ("2^{n}1", "2^{n1}"),
    ("2^{n+1}", "2^n+1"),
    (r"\frac{1}{23}", r"\frac{12}{3}"),
    (r"\frac{a+b}{c}", r"a+\frac{b}{c}"),
    (r"\frac{1}{2x}", r"\frac{1}{2}x"),
    (r"a/\frac{b}{c}", "a/b/c"),
    (r"2^\frac{1}{2}", r"2^1/2"),
    (r"\frac{1}{2}^2", r"1/2^2"),
    (r"3\frac{1}{2}", r"\frac{31}{2}"),
    (r"\sqrt{x+1}", r"\sqrt{x}+1"),
    (r"\sqrt[3]{x+1}", r"\sqrt[3]{x}+1"),
    (r"\sqrt[3]{2}", r"\sqrt{2}"),
    (r"\binom{1}{23}", r"\binom{12}{3}"),
    (r"\log_{2}3", r"\log_{23}"),
    (r"$\mathbf{a} \cdot \mathbf{b}$", r"$\mathbf{a} \times \mathbf{b}$"),
    (r"\overline{AB}", "AB"),
    (r"\vec{v}", r"\hat{v}"),
    (r"\leftarrow", "arrow"),
    (r"\Rightarrow", r"\to"),
    ("Complete: { [ ( ) ]", "Complete: [ ( ) ]"),
    ("Complete: { ( ) }", "Complete: ( ) { }"),
    ("{1}", "1"),
    ("{1, 2}", "(1, 2)"),
    ("[1, 2]", "(1, 2)"),
    ("a b", "ab"),
    ("no where", "nowhere"),
    ("x_1", "x1"),
    ("x^2", "x_2"),
    ("x^2", "x2"),
    ("3.5", "35"),
    ("3.5", "3 5"),
    ("1,0", "10"),
    ("1, 000", "1000"),
    ("(1,234)", "(1234)"),
    ("1 000 + 1", "1000 + 1"),
    ("1 + 2", "1 - 2"),
    ("-1", "1"),
    ("a < b", "a > b"),
    ("a < b", "a ≤ b"),
    ("|x|", "x"),
    ("f'", "f"),
    ("90°", "90"),
    ("5%", "5"),
    ("2:3", "23"),
    ("Compute 5 - 3 of 8.", "Compute 5 + 3 of 8."),
    ("Solve step by step.", "Solve it."),
]


@pytest.mark.parametrize(("first", "other"), LOOK_ALIKES)
def test_look_alikes_stay_apart(first: str, other: str) -> None:
    assert normalize_problem(first) != normalize_problem(other)
    index = ProblemIndex.of([Chain(first, ["x"], source="e")])
    assert index.sets_with(Chain(other, ["x"])) == set()


def test_problems_of_the_lists_stay_apart() -> None:
    keys = [normalize_problem(layouts[0]) for layouts in LAYOUTS.values()]
    assert len(set(keys)) == len(keys)


# What holds for any text

PIECES = st.sampled_from(
    [
        *"ab12 .,!?'\"`${}()[]^_√·*<>=-|~\\/&:;%°∘…½²₂①éΣǰŉᾳİ\u0301\u200b\u00a0\n",
        *("1,000", "10", "xy", "{,}", "...", "``", "''", "$$", "th", "\\,000", "\\!", "\\n"),
        *(f"\\{name}" for name in ["frac", "dfrac12", "sqrt", "sqrt[3]", "binom", "pmod", "text"]),
        *(f"\\{name}" for name in ["mathrm", "hspace", "left", "right.", "not", "LEQ", "foo"]),
        *(f"\\{name}" for name in ["Pi", "cdot", "circ", "prime"]),
        *(f"\\{name}" for name in "{}()[]_^"),
        *("\\begin{align}", "\\end{align}", "\\begin{pmatrix}", "\\end{pmatrix}", "\\boxed{}"),
        *("Problem: ", "Solve step by step: ", " Show your work.", "\nAnswer:"),
    ]
)
texts = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=20)


@settings(max_examples=1500)
@given(texts)
def test_the_key_of_a_key_is_itself(text: str) -> None:
    tokens = plain_tokens(text)
    assert plain_tokens(" ".join(tokens)) == tokens
    assert not any(token.split() != [token] for token in tokens)
    key = normalize_problem(text)
    assert normalize_problem(key) == key


@given(texts, st.sampled_from([" ", "\n", "\t", "\u00a0", "  ", "\u2003"]))
def test_white_space_is_one_space(text: str, space: str) -> None:
    words = text.split()
    assert normalize_problem(space.join(words)) == normalize_problem(" ".join(words))


@given(st.lists(st.integers(0, 99999), min_size=1, max_size=6), st.sampled_from("+-×,<"))
def test_numbers_keep_their_bounds(numbers: list[int], operator: str) -> None:
    spaced = normalize_problem(f" {operator} ".join(map(str, numbers)))
    assert re.findall(r"\d+", spaced) == list(map(str, numbers))
    assert re.findall(r"\d+", normalize_problem(" ".join(map(str, numbers)))) == list(
        map(str, numbers)
    )


@pytest.mark.parametrize(
    "piece",
    [
        "{",
        "}",
        "^",
        "x^{",
        r"\frac",
        r"\frac{a b}",
        r"\sqrt[",
        "``",
        "$",
        "1,000,",
        "a. ",
        "√(",
        "Problem: ",
        "Put your answer in \\boxed{}. ",
        ".",
    ],
)
def test_time_is_in_proportion_to_the_text(piece: str) -> None:
    """Nothing nests without end: tokens are bounded by the text, whatever it repeats."""
    text = piece * 20_000
    assert len(plain_tokens(text)) <= 5 * len(text)
    assert normalize_problem(normalize_problem(text)) == normalize_problem(text)


# A problem inside of a longer text

QUESTION = "Tom buys 3 pens and 4 rulers for 5 dollars. How much is a pen?"


@pytest.mark.parametrize(
    "longer",
    [
        f"You are a careful tutor. {QUESTION} Reply in French.",
        f"Question: What is 1 + 1? Answer: 2.\n\nQuestion: {QUESTION}",
        f'He asked: "{QUESTION}" What would you say?',
        f"{QUESTION}\nA: 1 B: 2 C: 3",
    ],
)
def test_a_long_problem_is_found_inside_of_a_text(longer: str) -> None:
    for indexed, sought in ((QUESTION, longer), (longer, QUESTION)):
        index = ProblemIndex.of([Chain(indexed, ["x"], source="e")])
        assert index.sets_with(Chain(sought, ["x"])) == {"e"}


@pytest.mark.parametrize(
    "other",
    [
        f"{QUESTION[:-1]} and a ruler?",
        f"On Friday {QUESTION}",
        f"1{QUESTION}",
        "Tom buys 3 pens and 4 rulers for 5 dollars. How much is a ruler?",
    ],
)
def test_what_goes_on_is_another_problem(other: str) -> None:
    index = ProblemIndex.of([Chain(QUESTION, ["x"], source="e")])
    assert index.sets_with(Chain(other, ["x"])) == set()


@pytest.mark.parametrize("short", ["1+1=?", "1 + 2 + 3 = ?", "Which of these statements is true?"])
def test_a_short_problem_is_not_looked_for_inside_of_texts(short: str) -> None:
    assert len(normalize_problem(short).split()) < LONG
    for indexed, sought in ((short, f"Hello. {short} Yes."), (f"Hello. {short} Yes.", short)):
        index = ProblemIndex.of([Chain(indexed, ["x"], source="e")])
        assert index.sets_with(Chain(sought, ["x"])) == set()


def test_a_bare_problem_counts_but_not_a_short_beginning_of_a_question() -> None:
    stem, first, second = "Which is true?", "Which is true?\nA: 1", "Which is true?\nA: 2"
    index = ProblemIndex.of([Chain(first, ["x"], source="e", metadata={PROBLEM: stem})])
    assert index.sets_with(Chain(second, ["x"], metadata={PROBLEM: stem})) == set()
    assert index.sets_with(Chain(first, ["x"], metadata={PROBLEM: stem})) == {"e"}
    bare = {PROBLEM: QUESTION}
    longer = [Chain(f"{QUESTION}\n{n}", ["x"], source="e", metadata=bare) for n in "12"]
    assert ProblemIndex.of(longer[:1]).sets_with(longer[1]) == {"e"}


def test_many_problems_with_one_beginning() -> None:
    """A beginning that all problems share costs a look-up for each end of a sentence, no more."""
    start = "Sort these words by the alphabet, and write them in one line:"
    lists = [f"{start} w{n} v{n * 7} u{n * 13}" for n in range(3000)]
    problems = Problems.of(problem_text(Chain(text, ["x"])) for text in lists)
    assert (len(problems.keys), len(problems.anchors)) == (3000, 1)
    for text in lists[::100]:
        assert len(problems.found_in(problem_text(Chain(f"{text}. Be quick.", ["x"])))) == 1
    assert problems.found_in(problem_text(Chain(f"{start} a b c. Be quick.", ["x"]))) == []


def test_nothing_is_a_problem_of_nothing() -> None:
    index = ProblemIndex.of([Chain("", ["x"], source="e"), Chain("?", ["x"], source="f")])
    assert index.sets_with(Chain("", ["x"])) == set()
    assert ProblemIndex.of([]).sets_with(Chain("?", ["x"])) == set()


# The published data

SETS: dict[str, tuple[str, Format]] = {
    "prm800k": ("prm800k-validation/*.jsonl", PRM800KValidation(neutral="good")),
    "mr-ben": ("mr-ben/*.json", MRBen()),
    "bigbench-mistake": ("bigbench-mistake/*.jsonl", BigBenchMistake()),
    "processbench": ("processbench/*.json", ProcessBench()),
    "prmbench": ("prmbench/*.jsonl", PRMBench()),
    "hh-rlhf": ("hh-rlhf/test.jsonl.gz", HHDialogues(objective="safety")),
    "diasafety": ("diasafety/*.json", DiaSafety()),
    "truthfulqa": ("truthfulqa/*.jsonl", TruthfulQA()),
    "halueval": ("halueval/general_data.json", HaluEval()),
    "pandalm": ("pandalm/testset-v1.json", PandaLM()),
    "fine-grained-rlhf": ("fine-grained-rlhf/dev_feedback.json", FineGrainedRLHF()),
    "hhh": ("hhh-alignment/hhh_alignment.jsonl", HHH()),
    "llmbar": ("llmbar/*.json", LLMBar()),
    "gsm8k": (
        "gsm8k/example_model_solutions.jsonl",
        OutcomeColumns(prompt="question", response="ground_truth", ratings={}),
    ),
}
MERGED = {"mr-ben": 1, "prmbench": 58, "hh-rlhf": 1, "diasafety": 17}
"""Keys that several prompts share; those that differ in more than marks were read by hand."""


def prompts(folder: Path, name: str) -> Iterator[str]:
    path, reading = SETS[name]
    source = Source(str(folder / path), reading, on_error="skip")
    for record in source.records(Skipped(), unique=False):
        yield " ".join(prompt_text(record.prompt).split())


@pytest.mark.parametrize("name", SETS)
def test_no_published_problems_are_merged_that_differ(shared_data: Path, name: str) -> None:
    layouts: dict[str, set[str]] = defaultdict(set)
    for prompt in prompts(shared_data, name):
        layouts[normalize_problem(prompt)].add(prompt)
    merged = [sorted(group) for group in layouts.values() if len(group) > 1]
    assert len(merged) == MERGED.get(name, 0)
    for group in merged:  # words and numbers are those of each other, in order
        assert len({tuple(words(prompt)) for prompt in group}) == 1, group
    for key in layouts:
        assert normalize_problem(key) == key


def words(text: str) -> list[str]:
    """Return words and numbers as they are read without commands, by nothing that is tested."""
    text = re.sub(r"\\n(?![a-z])", " ", text)
    return re.findall(r"[a-z]+|\d+", re.sub(r"\\[A-Za-z]+", " ", text).lower())


def _in_math(text: str, to: str) -> str:
    return text if "\\$" in text or "$$" in text else re.sub(r"\$([^$]+)\$", to, text)


REWRITTEN: dict[str, Callable[[str], str]] = {
    "parentheses": lambda text: _in_math(text, r"\\(\1\\)"),
    "no dollars": lambda text: _in_math(text, r"\1"),
    "display": lambda text: re.sub(r"\\\[(.+?)\\\]", r"$$\1$$", text, flags=re.S),
    "times": lambda text: text.replace(r"\times", "×"),
    "dot": lambda text: re.sub(r"\\cdot(?![a-z])", "·", text),
    "division": lambda text: text.replace(r"\div", "÷"),
    "less": lambda text: re.sub(r"\\leq?(?![a-z])", "≤", text),
    "more": lambda text: re.sub(r"\\geq?(?![a-z])", "≥", text),
    "unequal": lambda text: re.sub(r"\\neq?(?![a-z])", "≠", text),
    "minus": lambda text: text.replace("-", "−"),
    "text": lambda text: re.sub(r"\\text\{([^{}]*)\}", r"\1", text),
    "mbox": lambda text: text.replace(r"\text{", r"\mbox{"),
    "apostrophes": lambda text: text.replace("'", "’"),
    "quotes": lambda text: re.sub(r'"([^"]*)"', r"“\1”", text),
    "zero width": lambda text: "\u200b".join(text),
    "soft hyphens": lambda text: re.sub(r"(?<=\b[a-z]{3})(?=[a-z])", "\u00ad", text),
    "hard spaces": lambda text: text.replace(" ", "\u00a0"),
    "commas": lambda text: (
        text if "=" in text else re.sub(r"(?<![\d.])(\d)(\d{3})\b", r"\1,\2", text)
    ),
    "brace commas": lambda text: re.sub(r"(?<=\d),(?=\d{3}\b)", "{,}", text),
    "large fractions": lambda text: text.replace(r"\frac", r"\dfrac"),
    "short fractions": lambda text: re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2", text),
    "degrees": lambda text: re.sub(r"\^(?:\\circ|\{\\circ\})", "°", text),
    "percents": lambda text: text.replace(r"\%", "%"),
    "dollars": lambda text: text.replace(r"\$", "$"),
    "dots": lambda text: re.sub(r"\\(?:ldots|dots|cdots)(?![a-z])", "...", text),
    "pi": lambda text: re.sub(r"\\pi(?![a-z])", "π", text),
    "roots": lambda text: re.sub(r"\\sqrt\{([^{}]+)\}", r"√(\1)", text),
    "squares": lambda text: re.sub(r"\^(?:2|\{2\})(?!\d)", "²", text),
    "space": lambda text: re.sub(r"(?<![<>])([=+])", r" \1 ", text),
    "no space": lambda text: re.sub(r" ?([=+<>]) ?", r"\1", text),
    "lines": lambda text: text.replace(". ", ".\n\n"),
    "steps": lambda text: f"Solve step by step: {text}",
    "box": lambda text: f"{text} Put your final answer in \\boxed{{}}.",
    "heading": lambda text: f"Question: {text}\nAnswer:",
}
MISSED = {"commas": 1}
"""How many of the problems that a rewriting changes are not found: (1,001) may be a pair."""


@pytest.fixture(scope="module")
def published(shared_data: Path) -> list[str]:
    """The problems of two sets that are mostly LaTeX."""
    return sorted({*prompts(shared_data, "prm800k"), *prompts(shared_data, "processbench")})


@pytest.mark.parametrize("name", REWRITTEN)
def test_published_problems_are_found_in_another_layout(published: list[str], name: str) -> None:
    changed = [(text, new) for text in published if (new := REWRITTEN[name](text)) != text]
    missed = [text for text, new in changed if normalize_problem(new) != normalize_problem(text)]
    assert changed
    assert len(missed) == MISSED.get(name, 0), missed[:3]


def test_the_rewritten_problems_meet_no_other_one(published: list[str]) -> None:
    keys = {normalize_problem(text): text for text in published}
    for rewrite in REWRITTEN.values():
        for text in published[::10]:
            assert keys.get(normalize_problem(rewrite(text)), text) == text


def test_published_problems_are_found_inside_of_a_text(published: list[str]) -> None:
    """Those that are missed end in a formula or a table, without a full stop."""
    index = ProblemIndex.of(Chain(text, ["x"], source="e") for text in published)
    before = "Here is one. Question: What is 1 + 1? Answer: 2."
    inside = [Chain(f"{before}\n\n{text} Be brief.", ["x"]) for text in published]
    num_long = sum(len(normalize_problem(text).split()) >= LONG for text in published)
    num_found = sum(index.sets_with(chain) == {"e"} for chain in inside)
    assert (num_found, num_long, len(published)) == (1465, 1488, 1531)
