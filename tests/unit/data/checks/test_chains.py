"""The linter: each kind of finding is made where it should be, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from prm.data.checks.chains import CheckReport, check_chains
from prm.data.checks.linter import Finding
from prm.data.checks.texts import TextRules, token_counter, tokenizer_rules
from prm.data.formats.base import ADJUSTED
from prm.data.formats.prm800k_validation import PRM800KValidation
from prm.data.sources.source import Source
from prm.errors import DataError
from prm.records import Chain
from prm.spec import RewardSpec, Template
from prm.trees.identity import add_marker

GOOD = [Chain(f"p{i}", ["a", "b"], [i % 2, 1], id=str(i)) for i in range(8)]


def found(report: CheckReport, kind: str) -> Finding | None:
    return next((finding for finding in report.findings if finding.kind == kind), None)


def kinds(report: CheckReport) -> dict[str, str]:
    return {
        finding.kind: finding.severity for finding in report.findings if finding.severity != "info"
    }


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; its template and its post-processor both add BOS."""
    words = ["<s>", "</s>", "<unk>", "a", "b", "p"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    result = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    result.chat_template = (
        "{{ bos_token }}{% for message in messages %} {{ message['content'] }}{% endfor %}"
    )
    add_marker(result, RewardSpec())
    return result


class TestContent:
    def test_good_chains_have_no_finding_beyond_statistics(self) -> None:
        report = check_chains(GOOD)
        assert kinds(report) == {}
        assert not report.has_errors
        assert report.counts == {"chains": 8, "steps": 16, "labels": 16}

    def test_rows_that_cannot_be_read_are_collected(self) -> None:
        errors = [DataError("labels are wrong", where=f"f:{i}") for i in range(7)]
        finding = found(check_chains([*GOOD, *errors]), "unreadable_row")
        assert finding is not None
        assert (finding.severity, finding.count, len(finding.examples)) == ("error", 7, 5)
        assert finding.examples[0].origin == "f:0"
        assert finding.examples[0].detail == "labels are wrong"

    def test_empty_steps(self) -> None:
        finding = found(check_chains([Chain("p", ["a", " ", "b"])]), "empty_step")
        assert finding is not None
        assert finding.examples[0].detail == "step 2 of 3"

    def test_duplicates_and_conflicts(self) -> None:
        chains = [
            Chain("p", ["a", "b"], [1, None], origin="f:1"),
            Chain("p", ["a", "b"], [1, 0], origin="f:2"),
            Chain("p", ["a", "b"], [0, None], origin="f:3"),
            Chain("p", ["ab"], [0], origin="f:4"),
        ]
        report = check_chains(chains)
        same, other = found(report, "duplicate_row"), found(report, "conflicting_row")
        assert same is not None
        assert other is not None
        assert (same.count, same.examples[0].origin) == (1, "f:2")
        assert (other.severity, other.examples[0].detail) == ("error", "first at f:1")

    def test_overlap_with_evaluation_sets(self) -> None:
        evaluation = [Chain("P1.", ["z"], source="bench")]
        finding = found(check_chains(GOOD, evaluation=evaluation), "evaluation_overlap")
        assert finding is not None
        assert (finding.severity, finding.count) == ("error", 1)
        assert finding.examples[0].detail == "also in bench"

    def test_unlabeled_and_adjusted_chains_are_counted(self) -> None:
        chains = [Chain("p", ["a"]), Chain("q", ["a"], [1], metadata={ADJUSTED: "clipped"})]
        report = check_chains(chains)
        for kind in ("unlabeled_row", "adjusted_row"):
            finding = found(report, kind)
            assert finding is not None
            assert (finding.severity, finding.count) == ("info", 1)

    def test_errors_come_first_and_the_report_is_json(self) -> None:
        report = check_chains([GOOD[0], GOOD[0], DataError("x")])
        assert [f.severity for f in report.findings][:2] == ["error", "warning"]
        assert json.loads(json.dumps(report.to_json()))["num_chains"] == 2


class TestStatistics:
    def test_balance_by_position(self) -> None:
        chains = [Chain("p", ["a", "b"], [1, 0]), Chain("q", ["a", "b"], [0.25, None])]
        finding = found(check_chains(chains), "label_balance")
        assert finding is not None
        assert [tuple(row.values()) for row in finding.table] == [
            ("correctness", "1", 2, 0.625, 0.5),
            ("correctness", "2", 1, 0.0, 1.0),
        ]

    def test_late_positions_share_a_row(self) -> None:
        finding = found(check_chains([Chain("p", ["a"] * 12, [1] * 12)]), "label_balance")
        assert finding is not None
        assert (finding.table[-1]["position"], finding.table[-1]["labels"]) == ("10+", 3)

    def test_one_sided_labels(self) -> None:
        assert kinds(check_chains([Chain("p", ["a", "b"], [1, 1])])) == {
            "one_sided_labels": "warning"
        }

    def test_correlation_with_length_is_spearman_over_labeled_steps(self) -> None:
        random = np.random.default_rng(0)
        lengths, labels = random.integers(1, 50, 40), random.random(40)
        chains = [
            Chain(f"p{i}", ["x" * length, "unlabeled"], [label, None])
            for i, (length, label) in enumerate(zip(lengths, labels, strict=True))
        ]
        finding = found(check_chains(chains), "length_label_correlation")
        assert finding is not None
        assert finding.count == 40
        expected = spearmanr(lengths, labels).statistic
        assert finding.table[0]["spearman"] == pytest.approx(expected)

    def test_labels_that_follow_length_are_a_warning(self) -> None:
        chains = [Chain(f"p{i}", ["x" * (i + 1)], [i / 10]) for i in range(10)]
        assert kinds(check_chains(chains))["length_label_correlation"] == "warning"


class TestText:
    def test_separators_inside_steps_not_around_them(self) -> None:
        chains = [Chain("p\n\np", ["a\n\n", "b"]), Chain("q", ["a\n\nb"])]
        finding = found(check_chains(chains), "separator_in_text")
        assert finding is not None
        assert (finding.count, finding.examples[0].detail) == (1, "step 1 holds '\\n\\n'")

    def test_separators_are_those_of_the_rules(self) -> None:
        rules = TextRules(separators=("|",))
        report = check_chains([Chain("p", ["a|b"]), Chain("q", ["a\n\nb"])], rules=rules)
        finding = found(report, "separator_in_text")
        assert finding is not None
        assert finding.count == 1

    def test_special_tokens_and_bos(self, tokenizer: PreTrainedTokenizerFast) -> None:
        chains = [Chain("<s>p", ["a"]), Chain("p", ["a</s>"]), Chain("q", ["<|step|>"])]
        report = check_chains(chains, rules=tokenizer_rules(tokenizer))
        special, bos = found(report, "special_token_in_text"), found(report, "bos_in_text")
        assert special is not None
        assert bos is not None
        assert (special.count, bos.count) == (3, 1)
        assert kinds(report)["double_bos"] == "warning"

    def test_a_tokenizer_that_adds_one_bos_is_fine(
        self, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        template = tokenizer.chat_template
        try:
            tokenizer.chat_template = "{{ messages[0]['content'] }}"
            assert not tokenizer_rules(tokenizer).double_bos
        finally:
            tokenizer.chat_template = template


class TestTruncation:
    def test_counts_are_those_of_the_model(self, tokenizer: PreTrainedTokenizerFast) -> None:
        count = token_counter(tokenizer, RewardSpec(template=Template(bos="none")))
        assert count(Chain("p p p", ["a a", "", "b"])) == (3, [3, 0, 2])

    @pytest.mark.parametrize(
        ("max_length", "labels", "kind"),
        [
            (9, [1, 1], None),
            (8, [1, 1], "truncated"),
            (6, [1, 1], "truncated"),
            (5, [1, 1], "emptied"),
            (3, [1, 1], "emptied"),
            (8, [None, 1], "emptied"),
            (8, None, "truncated"),
        ],
    )
    def test_whole_steps_are_dropped(
        self,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        labels: list[float | None] | None,
        kind: str | None,
    ) -> None:
        chain = Chain("p p p", ["a a", "b b"], labels)
        report = check_chains(
            [chain],
            count_tokens=token_counter(tokenizer, RewardSpec(template=Template(bos="none"))),
            max_length=max_length,
        )
        assert {"truncated", "emptied"} & set(kinds(report)) == ({kind} if kind else set())


def test_published_conflicts_and_duplicates(shared_data: Path) -> None:
    source = Source(str(shared_data / "prm800k-validation"), PRM800KValidation(neutral="good"))
    report = check_chains(source.results())
    same, other = found(report, "duplicate_row"), found(report, "conflicting_row")
    assert same is not None
    assert other is not None
    assert (same.count, other.count, report.counts["labels"]) == (14, 4, 9535)
