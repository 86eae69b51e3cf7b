"""The linter of comparisons and ratings: each kind of finding is made where it should be."""

from __future__ import annotations

import json
import random
from itertools import combinations, permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prm.data.checks.linter import CheckReport, Finding
from prm.data.checks.raters import VERDICTS
from prm.data.checks.responses import check_outcomes
from prm.data.checks.texts import TextRules
from prm.data.formats import format_named
from prm.data.formats.base import ADJUSTED, OutcomeFormat
from prm.data.sources.source import Source
from prm.errors import ConfigError, DataError
from prm.metrics.agreement import krippendorff_alpha
from prm.records import Chain, Comparison, Outcome, Rating
from prm.spec import ResponseHead, RewardSpec
from prm.trees.tokenize import TreeBuilder


def pair(
    better: str, worse: str, prompt: str = "p", objective: str = "helpfulness", id: str = ""
) -> Comparison:
    return Comparison(prompt, [better, worse], objective=objective, id=id, origin=f"f:{id}")


def tie(first: str, second: str) -> Comparison:
    return Comparison("p", [first, second], [0, 0], objective="helpfulness")


def rating(response: str, value: float | None, prompt: str = "p", id: str = "") -> Rating:
    return Rating(prompt, response, {"safety": value}, id=id, origin=f"f:{id}")


def found(report: CheckReport, kind: str) -> Finding:
    return next(finding for finding in report.findings if finding.kind == kind)


def kinds(report: CheckReport) -> dict[str, str]:
    return {
        finding.kind: finding.severity for finding in report.findings if finding.severity != "info"
    }


GOOD = [pair("aa", "b", f"p{i}") if i % 2 else pair("b", "aa", f"p{i}") for i in range(6)]
GOOD += [rating("aa" if i < 2 else "b", i % 2, f"p{i}") for i in range(4)]


class TestContent:
    def test_good_records_have_no_finding_beyond_statistics(self) -> None:
        report = check_outcomes(GOOD)
        assert kinds(report) == {}
        assert report.counts == {"comparisons": 6, "ratings": 4, "labels": 10}
        assert json.loads(json.dumps(report.to_json()))["num_ratings"] == 4

    def test_rows_that_cannot_be_read_are_errors(self) -> None:
        report = check_outcomes([*GOOD, DataError("x", where="f:1")])
        assert (found(report, "unreadable_row").count, report.has_errors) == (1, True)

    def test_nothing_readable_still_makes_a_report(self) -> None:
        report = check_outcomes([DataError("x")])
        assert report.counts == {"comparisons": 0, "ratings": 0, "labels": 0}
        assert kinds(report) == {"unreadable_row": "error"}

    def test_a_response_preferred_to_itself(self) -> None:
        finding = found(
            check_outcomes([*GOOD, pair("same", "same", id="7")]), "identical_responses"
        )
        assert (finding.severity, finding.count) == ("error", 1)
        assert (finding.examples[0].origin, finding.examples[0].id) == ("f:7", "7")
        assert finding.examples[0].detail == "helpfulness: responses 1 and 2"

    def test_white_space_makes_no_difference(self) -> None:
        report = check_outcomes([pair("a  b\n", "a b"), pair("ab", "a b"), tie("c ", " c")])
        assert found(report, "identical_but_for_space").count == 1
        assert found(report, "identical_tied_responses").count == 1

    def test_only_the_members_that_are_equal_count_as_such(self) -> None:
        ranked = Comparison("p", ["a", "b", "a"], [0, 1, 2], objective="x")
        finding = found(check_outcomes([ranked]), "identical_responses")
        assert finding.examples[0].detail == "x: responses 1 and 3"

    def test_empty_texts(self) -> None:
        report = check_outcomes([pair("a", " \n"), rating("", 1), rating("x", 1, prompt=" ")])
        assert found(report, "empty_response").count == 2
        assert found(report, "empty_response").examples[0].detail == "response 2 of 2"
        assert found(report, "empty_prompt").count == 1

    def test_copies_whatever_the_order_of_responses(self) -> None:
        swapped = Comparison("p", ["b", "a"], [1, 0], objective="helpfulness", origin="f:2")
        other = pair("a", "b", objective="safety")
        report = check_outcomes([pair("a", "b", id="1"), swapped, other, rating("a", 1)])
        finding = found(report, "duplicate_row")
        assert (finding.count, finding.examples[0].origin) == (1, "f:2")
        assert finding.examples[0].detail == "first at f:1"

    def test_a_conversation_is_not_its_bare_text(self) -> None:
        turns = [{"role": "user", "content": "p"}]
        report = check_outcomes([rating("a", 1), Rating(turns, "a", {"safety": 1})])
        assert "duplicate_row" not in kinds(report)

    def test_unrated_and_adjusted_rows_are_counted(self) -> None:
        adjusted = Rating("q", "a", {"safety": 1}, metadata={ADJUSTED: "clipped"})
        report = check_outcomes([rating("a", None), adjusted])
        assert (found(report, "unlabeled_row").count, found(report, "adjusted_row").count) == (1, 1)

    def test_overlap_with_evaluation_sets_of_any_kind(self) -> None:
        evaluation = [Chain("P1.", ["z"], source="bench"), pair("x", "y", "p2 ")]
        finding = found(check_outcomes(GOOD, evaluation=evaluation), "evaluation_overlap")
        assert (finding.severity, finding.count) == ("error", 4)
        assert finding.message == "rows about 2 problems of evaluation sets"


class TestRatings:
    def test_ratings_outside_the_declared_range(self) -> None:
        ranges = {"safety": (0.0, 1.0), "typo": (0.0, 4.0)}
        report = check_outcomes([rating("a", 2, id="3"), rating("b", 1)], ranges=ranges)
        finding = found(report, "rating_out_of_range")
        assert (finding.severity, finding.examples[0].id) == ("error", "3")
        assert finding.examples[0].detail == "safety: 2 is not in [0, 1]"
        assert "'typo'" in found(report, "unused_range").message

    @pytest.mark.parametrize(
        ("values", "is_sentinel"),
        [([-1, 0, 4], True), ([-100, 1], True), ([-1, -0.5, 1], False), ([-1, -1], False)],
    )
    def test_numbers_that_stand_for_missing(self, values: list[float], is_sentinel: bool) -> None:
        report = check_outcomes([rating(str(i), value) for i, value in enumerate(values)])
        assert ("sentinel_rating" in kinds(report)) == is_sentinel

    @pytest.mark.parametrize(
        ("positives", "is_one_sided"), [(95, False), (96, True), (100, True), (3, True)]
    )
    def test_one_sided_labels(self, positives: int, is_one_sided: bool) -> None:
        report = check_outcomes([rating(str(i), float(i < positives)) for i in range(100)])
        assert ("one_sided_labels" in kinds(report)) == is_one_sided

    def test_grades_are_not_one_sided(self) -> None:
        grades = [rating(str(i), max(0, i - 97)) for i in range(100)]
        assert "one_sided_labels" not in kinds(check_outcomes(grades))

    @pytest.mark.parametrize(("tolerance", "count"), [(0.5, 1), (0.25, 2), (1.0, 0)])
    def test_ratings_far_apart(self, tolerance: float, count: int) -> None:
        rows = [rating("a", 1, id="1"), rating("a", 4, id="2"), rating("b", 2), rating("b", 4)]
        report = check_outcomes([*rows, rating("c", 5)], rating_tolerance=tolerance)
        if count == 0:
            assert "rating_conflict" not in kinds(report)
            return
        finding = found(report, "rating_conflict")
        assert (finding.severity, finding.count) == ("warning", count)
        assert finding.examples[0].detail == "safety: 1 here, 4 at f:2 2"

    @pytest.mark.parametrize(
        "options", [{"rating_tolerance": 1.5}, {"ranges": {"safety": (1.0, 0.0)}}]
    )
    def test_wrong_options_are_refused(self, options: dict[str, object]) -> None:
        with pytest.raises(ConfigError, match="is wrong"):
            check_outcomes(GOOD, **options)  # type: ignore[arg-type]


class TestPreferences:
    def test_pairs_preferred_both_ways(self) -> None:
        rows = [
            pair("a", "b", id="1"),
            pair("b", "a", id="2"),
            pair("b", "a", id="3"),
            pair("b", "a", objective="safety"),
            pair("b", "a", prompt="q"),
        ]
        finding = found(check_outcomes(rows), "contradiction")
        assert (finding.severity, finding.count, finding.examples[0].id) == ("warning", 1, "2")
        assert finding.examples[0].detail == "helpfulness: the other way round at 1"

    def test_a_tie_contradicts_nothing(self) -> None:
        assert "contradiction" not in kinds(check_outcomes([pair("a", "b"), tie("a", "b")]))

    def test_a_circle_names_its_rows(self) -> None:
        rows = [pair(x, y, id=x + y) for x, y in ("ab", "bc", "ca", "cd")]
        finding = found(check_outcomes(rows), "preference_cycle")
        assert (finding.severity, finding.count) == ("warning", 1)
        assert finding.message.endswith("1 circles of 3")
        detail = finding.examples[0].detail
        assert detail.startswith("helpfulness: 3 responses in a circle, through ")
        assert set(detail.rpartition("through ")[2].split(", ")) == {"ab", "bc", "ca"}

    def test_circles_are_of_one_prompt_and_objective(self) -> None:
        rows = [pair("a", "b"), pair("b", "c"), pair("c", "a", prompt="q")]
        rows.append(pair("c", "a", objective="safety"))
        assert "preference_cycle" not in kinds(check_outcomes(rows))

    def test_a_ranking_closes_a_circle(self) -> None:
        ranked = Comparison("p", ["a", "b", "c", "d"], objective="helpfulness", id="k")
        finding = found(check_outcomes([ranked, pair("d", "a", id="da")]), "contradiction")
        assert finding.examples[0].id == "da"
        longer = [ranked, pair("d", "e", id="de"), pair("e", "a", id="ea")]
        assert found(check_outcomes(longer), "preference_cycle").count == 1

    def test_majorities_decide(self) -> None:
        rows = [pair("a", "b"), pair("b", "c"), pair("c", "a"), pair("a", "c"), pair("a", "c")]
        assert "preference_cycle" not in kinds(check_outcomes(rows))

    @given(st.lists(st.permutations("abcde").map(lambda x: (x[0], x[1])), max_size=25))
    def test_circles_of_three_by_brute_force(self, judgments: list[tuple[str, str]]) -> None:
        net = dict.fromkeys(permutations("abcde", 2), 0)
        for better, worse in judgments:
            net[better, worse] += 1
            net[worse, better] -= 1
        expected = sum(
            net[x, y] > 0 and net[y, z] > 0 and net[z, x] > 0
            for three in combinations("abcde", 3)
            for x, y, z in (three, three[::-1])
        )
        report = check_outcomes([pair(*judgment) for judgment in judgments])
        shown = [f.message for f in report.findings if f.kind == "preference_cycle"]
        assert any(f"; {expected} circles" in message for message in shown) or not expected


class TestLength:
    def test_preference_and_length_of_pairs(self) -> None:
        rows = [pair("x" * 9, "x", f"p{i}") for i in range(8)] + [pair("x", "xx"), tie("a", "bb")]
        finding = found(check_outcomes(rows), "length_preference_correlation")
        assert (finding.severity, finding.count) == ("warning", 9)
        differences = [8] * 8 + [-1, -1]
        better = [1] * 9 + [0]
        rho = spearmanr(differences + [-d for d in differences], better + [-b for b in better])
        row = finding.table[0]
        assert row["share_longer_preferred"] == pytest.approx(8 / 9)
        assert row["spearman"] == pytest.approx(rho.statistic)

    def test_ratings_and_length(self) -> None:
        lengths, values = [3, 1, 4, 5, 9, 2, 6], [0.1, 0.5, 0.2, 0.9, 0.3, 0.7, 0.7]
        rows = [rating("x" * n, value) for n, value in zip(lengths, values, strict=True)]
        finding = found(check_outcomes(rows), "length_label_correlation")
        assert finding.table[0]["spearman"] == pytest.approx(spearmanr(lengths, values).statistic)
        assert "response length and 'safety'" in finding.message

    def test_pairs_of_one_length_say_nothing(self) -> None:
        report = check_outcomes([pair("ab", "cd"), tie("a", "bcd")])
        assert all(f.kind != "length_preference_correlation" for f in report.findings)


class TestCoverage:
    def test_comparisons_by_objective(self) -> None:
        ranked = Comparison("q", ["a", "b", "c"], objective="helpfulness", source="s")
        report = check_outcomes([tie("a", "b"), ranked, pair("c", "d", objective="safety")])
        table = found(report, "comparison_coverage").table
        assert [tuple(row.values()) for row in table] == [
            ("helpfulness", 2, 1, 2, 3, 2, 2, pytest.approx(1 / 3)),
            ("safety", 1, 0, 2, 2, 1, 1, pytest.approx(2 / 3)),
        ]
        assert found(report, "ties").message.startswith("50.0% of the comparisons of 'helpfulness'")

    def test_ratings_by_objective(self) -> None:
        rows = [rating("a", 1), rating("b", 4), rating("c", None), rating("d", 1, prompt="q")]
        row = found(check_outcomes(rows), "rating_coverage").table[0]
        assert row == {
            "objective": "safety",
            "ratings": 3,
            "mean": 2.0,
            "std": pytest.approx(np.std([1, 4, 1])),
            "min": 1.0,
            "max": 4.0,
            "levels": 2,
            "prompts": 2,
            "sources": 1,
            "share_missing": 0.25,
        }


def agreement(records: list[Outcome]) -> dict[str, object]:
    return found(check_outcomes(records), "rater_agreement").table[0]


class TestAgreement:
    VOTES = ((3, 0), (0, 3), (2, 1), (2.5, 0.5), (1, 2))

    def voted(self, number: int, votes: tuple[float, float]) -> Comparison:
        texts = [f"first {number}", f"second {number}"]
        ranks = [0, 1] if votes[0] > votes[1] else [1, 0]
        return Comparison(f"p{number}", texts, ranks, objective="x", votes=votes)

    def test_votes_do_not_depend_on_the_order_of_responses(self) -> None:
        rows = [self.voted(*item) for item in enumerate(self.VOTES)]
        swapped = [
            Comparison(r.prompt, r.responses[::-1], r.ranks[::-1], objective="x", votes=votes[::-1])
            for r, votes in zip(rows, self.VOTES, strict=True)
        ]
        table = agreement(list(rows))
        assert table == agreement(list(swapped))
        assert (table["units"], table["opinions"]) == (5, 15)
        assert table["share_unanimous"] == pytest.approx(0.4)

    def test_alpha_of_votes(self) -> None:
        """Alpha of either orientation of each pair is among those of all orientations."""
        opinions = [[1, 1, 1], [-1, -1, -1], [1, 1, -1], [1, 1, 0], [1, -1, -1]]
        alphas = [
            krippendorff_alpha(
                [[sign * v for v in unit] for sign, unit in zip(signs, opinions, strict=True)],
                "ordinal",
            )
            for signs in product((-1, 1), repeat=5)
        ]
        alpha = agreement([self.voted(*item) for item in enumerate(self.VOTES)])["alpha_ordinal"]
        assert any(alpha == pytest.approx(value) for value in alphas)

    def test_exact_verdicts_replace_votes(self) -> None:
        """Three ties have the votes of one vote for each response and a tie."""
        verdicts = {0: [0, 0, 0], 1: [1, 1, 1]}
        rows: list[Outcome] = [
            Comparison(
                f"p{number}",
                ["a", "b"],
                [0, 0] if number == 0 else [0, 1],
                objective="x",
                votes=(1.5, 1.5) if number == 0 else (3, 0),
                metadata={VERDICTS: said},
            )
            for number, said in verdicts.items()
        ]
        assert agreement(rows)["alpha_nominal"] == 1.0
        bare = [
            Comparison(r.prompt, r.responses, r.ranks, objective="x", votes=r.votes)
            for r in rows
            if isinstance(r, Comparison)
        ]
        assert agreement(list(bare))["share_unanimous"] == 0.5

    def test_verdicts_are_about_the_better_response(self) -> None:
        one = Comparison("p", ["a", "b"], objective="x", metadata={VERDICTS: [1, 1]})
        other = Comparison("p", ["b", "a"], [1, 0], objective="x", metadata={VERDICTS: [1, 1]})
        assert agreement([one, other])["share_unanimous"] == 1.0

    def test_rows_that_come_again_are_opinions(self) -> None:
        values = {"a": [1, 1, 2], "b": [4, 3], "c": [2]}
        rows: list[Outcome] = [rating(text, v) for text, vs in values.items() for v in vs]
        table = agreement(rows)
        assert (table["kind"], table["units"], table["opinions"]) == ("ratings", 2, 5)
        for level in ("nominal", "ordinal"):
            expected = krippendorff_alpha(list(values.values()), level)  # type: ignore[arg-type]
            assert table[f"alpha_{level}"] == pytest.approx(expected)

    def test_raters_who_hardly_agree_are_a_warning(self) -> None:
        rows = [rating(str(i), value) for i in range(20) for value in (0, 1)]
        finding = found(check_outcomes(rows), "rater_agreement")
        assert finding.severity == "warning"
        assert finding.message.endswith("raters hardly agree on 'safety'")

    def test_one_right_among_many_is_no_disagreement(self) -> None:
        """The same wrong answers come in several rows, and each text may come twice in one."""
        rows: list[Outcome] = [
            Comparison(f"p{p}", ["right", *wrong], [0, 1, 1, 1], objective="x", id=f"{p}-{row}")
            for p in range(10)
            for row, wrong in enumerate((["a", "b", "b"], ["c", "b", "a"], ["b", "d", "a"]))
        ]
        finding = found(check_outcomes(rows), "rater_agreement")
        assert finding.severity == "info"
        table = finding.table[0]
        assert table["share_unanimous"] == 1.0
        assert (table["units"], table["opinions"]) == (20, 60)

    def test_a_few_opinions_that_differ_are_no_warning(self) -> None:
        rows = [rating(str(i), 1) for i in range(100) for _ in (0, 1)]
        rows += [rating(f"odd {i}", value) for i in range(3) for value in (0, 1)]
        finding = found(check_outcomes(rows), "rater_agreement")
        alpha = finding.table[0]["alpha_ordinal"]
        assert isinstance(alpha, float)
        assert alpha < 0.2
        assert finding.severity == "info"

    def test_constant_opinions_have_no_alpha(self) -> None:
        assert agreement([rating("a", 1), rating("a", 1)])["alpha_nominal"] is None


class TestText:
    def test_markup_of_templates_is_a_warning(self) -> None:
        rows = [pair("a", "[/INST] b"), rating("x\n\nHuman: y", 1), rating("a\n\nb", 0)]
        finding = found(check_outcomes(rows), "template_in_text")
        assert (finding.severity, finding.count) == ("warning", 2)
        assert finding.examples[0].detail == "response 2 holds '[/INST]'"

    def test_special_tokens_and_bos(self) -> None:
        rules = TextRules(special_tokens=("<s>", "</s>"), bos="<s>", double_bos=True)
        report = check_outcomes([pair("a</s>", "b", prompt="<s>p")], rules=rules)
        assert found(report, "special_token_in_text").count == 2
        assert {"bos_in_text", "double_bos"} <= kinds(report).keys()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word."""
    backend = Tokenizer(models.WordLevel({"</s>": 0, "<unk>": 1, "a": 2, "b": 3}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", bos_token="</s>"
    )


class TestTruncation:
    @pytest.mark.parametrize(
        ("max_length", "expected"),
        [
            (7, {}),
            (6, {"truncated": "warning"}),
            (4, {"truncated": "warning", "identical_after_truncation": "error"}),
            (2, {"not_tokenizable": "error"}),
        ],
    )
    def test_responses_that_become_equal(
        self, tokenizer: PreTrainedTokenizerFast, max_length: int, expected: dict[str, str]
    ) -> None:
        spec = RewardSpec(response_heads=(ResponseHead("safety"),), max_length=max_length)
        rows = [pair("a a a b", "a a b", prompt="a a")]
        report = check_outcomes(rows, builder=TreeBuilder(tokenizer, spec))
        names = {"truncated", "identical_after_truncation", "not_tokenizable"}
        assert {k: v for k, v in kinds(report).items() if k in names} == expected

    def test_ties_and_ratings_may_be_cut(self, tokenizer: PreTrainedTokenizerFast) -> None:
        spec = RewardSpec(response_heads=(ResponseHead("safety"),), max_length=4)
        builder = TreeBuilder(tokenizer, spec)
        rows = [tie("a a a b", "a a a a"), rating("a a a a a", 1)] * 300
        report = check_outcomes(rows, builder=builder)
        assert found(report, "truncated").count == 600
        assert "identical_after_truncation" not in kinds(report)


@given(st.integers(0, 10**6))
def test_the_order_of_rows_and_responses_does_not_matter(seed: int) -> None:
    rng = random.Random(seed)
    rows: list[Outcome] = []
    for _ in range(12):
        texts, prompt = rng.sample(["a", "bb", "ccc", "d d"], 2), rng.choice("pq")
        if rng.random() < 0.5:
            rows.append(rating(texts[0], rng.randint(0, 3), prompt))
        else:
            rows.append(Comparison(prompt, texts, rng.choice([[0, 1], [0, 0]]), objective="x"))
    turned = [
        Comparison(row.prompt, row.responses[::-1], row.ranks[::-1], objective="x")
        if isinstance(row, Comparison)
        else row
        for row in rows
    ]
    rng.shuffle(turned)
    one, other = (
        {f.kind: (f.count, f.severity, f.message) for f in check_outcomes(x).findings}
        for x in (rows, turned)
    )
    assert one == other


@pytest.mark.parametrize(
    ("path", "format_name", "options", "expected"),
    [
        ("pandalm", "PandaLM", {}, {"duplicate_row": 136, "ties": 105, "preference_cycle": 1}),
        ("llmbar", "LLMBar", {}, {"length_preference_correlation": 417}),
        ("hh-rlhf", "HHDialogues", {"objective": "safety"}, {"empty_response": 4}),
        ("fine-grained-rlhf", "FineGrainedRLHF", {}, {"ties": 384}),
    ],
)
def test_published_data(
    shared_data: Path,
    path: str,
    format_name: str,
    options: dict[str, str],
    expected: dict[str, int],
) -> None:
    reading = format_named(format_name)(**options)
    assert isinstance(reading, OutcomeFormat)
    report = check_outcomes(Source(str(shared_data / path), reading).results())
    assert not report.has_errors
    assert {kind: found(report, kind).count for kind in expected} == expected
