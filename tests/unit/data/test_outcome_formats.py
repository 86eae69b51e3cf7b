"""Outcome formats: what is better, the labels' direction, refusals, and what is written back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prm.data.formats import OutcomeFormat, all_formats, format_named
from prm.data.formats.base import ADJUSTED, SUBSET
from prm.data.formats.beaver_tails import BeaverTails
from prm.data.formats.dia_safety import DiaSafety
from prm.data.formats.fine_grained_rlhf import FineGrainedRLHF
from prm.data.formats.halu_eval import HaluEval
from prm.data.formats.help_steer import HelpSteer
from prm.data.formats.help_steer_preference import HelpSteerPreference
from prm.data.formats.hh_dialogues import HHDialogues
from prm.data.formats.hhh import HHH
from prm.data.formats.llmbar import LLMBar
from prm.data.formats.message_pairs import MessagePairs
from prm.data.formats.outcome_columns import OutcomeColumns
from prm.data.formats.outcomes import Outcomes
from prm.data.formats.pandalm import PandaLM
from prm.data.formats.pku_safe_rlhf import PKUSafeRLHF
from prm.data.formats.skywork_preference import SkyworkPreference
from prm.data.formats.trl_preference import TRLPreference
from prm.data.formats.truthful_qa import TruthfulQA
from prm.data.formats.ultra_feedback import UltraFeedback
from prm.data.formats.ultra_feedback_binarized import UltraFeedbackBinarized
from prm.data.sources.source import Source
from prm.data.sources.writers import write_records
from prm.errors import ConfigError, DataError, OutputError
from prm.records import Chain, Comparison, Outcome, Rating

Row = dict[str, Any]


def only(format: OutcomeFormat, row: Row) -> Any:
    (record,) = format.records(row, "f:1")
    assert record.origin == "f:1"
    return record


def conversation(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


PANDALM = {"idx": 3, "instruction": "i", "input": "", "response1": "a", "response2": "b"}
FINE_GRAINED: Row = {
    "question": "q?",
    "passages": [["title", "One.", "Two."], ["other", "Three."]],
    **{f"prediction {number}": f"answer {number}" for number in range(1, 5)},
    "preference": [0, 1, 2, 1, 0, 2],
    "feedback": {"errors": [], "missing-info": []},
}
HELP_STEER = {"prompt": "p", "response": "r"} | dict.fromkeys(
    ("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 3
)
PKU: Row = {
    "prompt": "p",
    "response_0": "zero",
    "response_1": "one",
    "better_response_id": 0,
    "safer_response_id": 1,
    "is_response_0_safe": False,
    "is_response_1_safe": True,
}


def completion(response: str, **grades: str) -> Row:
    return {
        "model": "m",
        "response": response,
        "annotations": {aspect: {"Rating": grade} for aspect, grade in grades.items()},
    }


class TestContract:
    @pytest.mark.parametrize(
        ("name", "options", "objectives"),
        [
            ("TRLPreference", {"objective": "x"}, {"x"}),
            ("HHDialogues", {"objective": "safety"}, {"safety"}),
            ("PandaLM", {}, {"helpfulness"}),
            ("LLMBar", {}, {"helpfulness"}),
            (
                "FineGrainedRLHF",
                {},
                {"helpfulness", "relevance", "factuality", "completeness"},
            ),
            ("DiaSafety", {}, {"safety"}),
            ("TruthfulQA", {}, {"factuality", "informativeness"}),
            ("HaluEval", {}, {"factuality"}),
            ("HelpSteer", {"attributes": {"correctness": "factuality"}}, {"factuality"}),
            ("HelpSteerPreference", {}, {"helpfulness"}),
            ("UltraFeedback", {"attributes": {"honesty": "honesty"}}, {"honesty"}),
            ("UltraFeedbackBinarized", {}, {"helpfulness"}),
            ("PKUSafeRLHF", {}, {"helpfulness", "safety"}),
            ("BeaverTails", {}, {"safety"}),
            ("SkyworkPreference", {}, {"helpfulness"}),
            ("MessagePairs", {}, {"helpfulness"}),
            ("HHH", {}, {"safety", "helpfulness", "factuality", "overall"}),
            ("Outcomes", {"objective": "x"}, {"x"}),
            ("OutcomeColumns", {"response": "r", "ratings": {"x": "c"}}, {"x"}),
        ],
    )
    def test_each_says_what_it_supervises(
        self, name: str, options: Row, objectives: set[str]
    ) -> None:
        found = format_named(name)(**options)
        assert isinstance(found, OutcomeFormat)
        assert set(found.objectives) == objectives
        assert all(sentence.endswith(".") for sentence in found.objectives.values())

    def test_none_is_left_out_above(self) -> None:
        outcome = [
            name for name, found in all_formats().items() if issubclass(found, OutcomeFormat)
        ]
        assert len(outcome) == 19


class TestTRLPreference:
    @pytest.mark.parametrize(
        "row",
        [
            {"prompt": "p q", "chosen": "a", "rejected": "b"},
            {"chosen": "p q\na", "rejected": "p q\nb"},
            {"chosen": "p q ab", "rejected": "p q ac"},
        ],
    )
    def test_text_prompts(self, row: Row) -> None:
        pair = only(TRLPreference(), row)
        assert pair.prompt == "p q"
        assert pair.prompt + pair.responses[0] in (row["chosen"], "p qa")

    def test_texts_where_one_starts_the_other(self) -> None:
        pair = only(TRLPreference(), {"chosen": "p a", "rejected": "p a b"})
        assert (pair.prompt, pair.responses) == ("p", (" a", " a b"))

    @pytest.mark.parametrize("explicit", [True, False])
    def test_conversations(self, explicit: bool) -> None:
        prompt, row = conversation("p"), {"prompt": conversation("p")} if explicit else {}
        for name in ("chosen", "rejected"):
            turn = [{"role": "assistant", "content": name}]
            row[name] = turn if explicit else prompt + turn
        pair = only(TRLPreference(), row)
        assert (list(pair.prompt), pair.responses) == (prompt, ("chosen", "rejected"))

    def test_optional_columns(self) -> None:
        row = {"prompt": "p", "chosen": "a", "rejected": "b", "id": 7, "group": "g"}
        pair = only(TRLPreference(), row | {"margin": 2, "votes": [3, 1], "objective": "safety"})
        assert (pair.strength, pair.votes, pair.objective) == (2.0, (3.0, 1.0), "safety")
        assert (pair.id, pair.group) == ("7", "g")
        assert only(TRLPreference(objective="style"), row).objective == "style"

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"chosen": "a", "rejected": "b"}, "'prompt'"),
            ({"chosen": "p a"}, "'rejected'"),
            ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": -1}, "strength"),
            (
                {"chosen": conversation("p", "a"), "rejected": conversation("q", "b")},
                "differ before the last turn",
            ),
            ({"chosen": conversation("p"), "rejected": conversation("p")}, "'chosen'"),
            ({"chosen": ["p"], "rejected": ["p"]}, "'chosen' is wrong"),
        ],
    )
    def test_refusals(self, row: Row, message: str) -> None:
        with pytest.raises(DataError, match=message) as caught:
            TRLPreference().records(row, "f:1")
        assert "f:1" in str(caught.value)


class TestDialogues:
    def test_a_dialogue_becomes_a_conversation_and_its_last_turn(self) -> None:
        start = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: 1 + 1?\n\nAssistant:"
        pair = only(HHDialogues(objective="x"), {"chosen": f"{start} 2", "rejected": f"{start} 3"})
        assert list(pair.prompt) == conversation("Hi", "Yes?", "1 + 1?")
        assert (pair.responses, pair.group) == (("2", "3"), "Hi")

    def test_adjacent_turns_of_one_speaker_are_one(self) -> None:
        start = "\n\nHuman: Hi\n\nAssistant: Yes"
        row = {"chosen": start, "rejected": f"{start}\n\nAssistant: No"}
        assert only(HHDialogues(objective="x"), row).responses == ("Yes", "Yes\n\nNo")

    @pytest.mark.parametrize(
        ("chosen", "message"),
        [
            ("\n\nHuman: Ho\n\nAssistant: Yes", "differ before the last turn"),
            ("\n\nHuman: Hi", "'chosen'"),
            ("Hi", "'chosen' is wrong: expected text that starts with"),
        ],
    )
    def test_refusals(self, chosen: str, message: str) -> None:
        row = {"chosen": chosen, "rejected": "\n\nHuman: Hi\n\nAssistant: Yes"}
        with pytest.raises(DataError, match=message):
            HHDialogues(objective="x").records(row, "f:1")

    def test_the_subset_of_hhh_decides_the_objective(self) -> None:
        row = {"prompt": "Hi\n\nAssistant: Yes?\n\nHuman: So?", "chosen": "a", "rejected": "b"}
        objectives = {
            subset: only(HHH(), row | {"subset": subset}).objective
            for subset in ("harmless", "helpful", "honest", "other")
        }
        assert list(objectives.values()) == ["safety", "helpfulness", "factuality", "overall"]
        pair = only(HHH(), row | {"subset": "other"})
        assert (list(pair.prompt), pair.metadata[SUBSET]) == (
            conversation("Hi", "Yes?", "So?"),
            "other",
        )
        with pytest.raises(DataError, match="'subset'"):
            HHH().records(row | {"subset": "kind"}, "f:1")


class TestPandaLM:
    @pytest.mark.parametrize(
        ("raters", "responses", "ranks", "votes"),
        [
            ((1, 1, 2), ("a", "b"), (0, 1), (2, 1)),
            ((2, 0, 2), ("b", "a"), (0, 1), (2.5, 0.5)),
            ((0, 0, 2), ("a", "b"), (0, 0), (1, 2)),
            ((0, 1, 2), ("a", "b"), (0, 0), (1.5, 1.5)),
        ],
    )
    def test_three_raters(self, raters: Any, responses: Any, ranks: Any, votes: Any) -> None:
        row = PANDALM | {f"annotator{i}": rater for i, rater in enumerate(raters, start=1)}
        pair = only(PandaLM(), row)
        assert (pair.responses, pair.ranks, pair.votes) == (responses, ranks, votes)
        assert len(PandaLM(ties="drop").records(row, "f:1")) == (ranks == (0, 1))

    def test_a_response_that_became_true_is_text_again(self) -> None:
        row = PANDALM | dict.fromkeys(("annotator1", "annotator2", "annotator3"), 1)
        pair = only(PandaLM(), row | {"response1": True, "input": "in"})
        assert (pair.prompt, pair.responses) == ("i\n\nin", ("True", "b"))
        assert ADJUSTED in pair.metadata

    @pytest.mark.parametrize("rater", [3, "1", None, True])
    def test_unknown_verdicts(self, rater: object) -> None:
        row = PANDALM | {"annotator1": rater, "annotator2": 1, "annotator3": 1}
        with pytest.raises(DataError, match="'annotator1'"):
            PandaLM().records(row, "f:1")

    def test_an_unknown_policy(self) -> None:
        with pytest.raises(ConfigError, match="ties"):
            PandaLM(ties="half")  # type: ignore[arg-type]


class TestLLMBar:
    @pytest.mark.parametrize(
        ("origin", "subset"),
        [
            ("llmbar/Natural.json[12]", "Natural"),
            ("LLMBar/Adversarial/Manual/dataset.json[0]", "Manual"),
            ("x/GPTOut.jsonl:3", "GPTOut"),
        ],
    )
    def test_the_label_counts_from_one(self, origin: str, subset: str) -> None:
        row = {"input": "i", "output_1": "a", "output_2": "b", "label": 2}
        pair = LLMBar().records(row, origin)[0]
        assert (pair.responses, pair.metadata[SUBSET]) == (("b", "a"), subset)
        with pytest.raises(DataError, match="'label'"):
            LLMBar().records(row | {"label": 0}, origin)


class TestFineGrainedRLHF:
    def test_comparisons_follow_the_published_order(self) -> None:
        *pairs, rating = FineGrainedRLHF().records(FINE_GRAINED, "f:1")
        found = [(pair.responses, pair.ranks) for pair in pairs if isinstance(pair, Comparison)]
        expected = ["12", "13", "41", "23", "24", "43"]
        assert [tuple(text[-1] for text in texts) for texts, _ in found] == [
            tuple(name) for name in expected
        ]
        assert [ranks == (0, 0) for _, ranks in found] == [True, False, False, False, True, False]
        assert rating.responses == ("answer 1",)
        assert {record.group for record in [*pairs, rating]} == {"q?"}

    @pytest.mark.parametrize(
        ("errors", "missing", "values"),
        [
            ([], [], (1, 1, 1)),
            (["Irrelevant"], [{}], (0, None, 0)),
            (["Unverifiable"], [], (1, 0, 1)),
            (["Wrong-Grounding", "Redundant"], [], (0, 0, 1)),
            (["Incoherent"], [], (0, None, 1)),
        ],
    )
    def test_error_spans(self, errors: list[str], missing: list[Any], values: Any) -> None:
        feedback = {"errors": [{"error type": name} for name in errors], "missing-info": missing}
        rating = FineGrainedRLHF().records(FINE_GRAINED | {"feedback": feedback}, "f:1")[-1]
        assert isinstance(rating, Rating)
        assert tuple(rating.values.values()) == values
        assert list(rating.values) == ["relevance", "factuality", "completeness"]

    def test_passages(self) -> None:
        records = FineGrainedRLHF(passages=True).records(FINE_GRAINED, "f:1")
        assert {record.prompt for record in records} == {"One. Two.\n\nThree.\n\nq?"}
        assert {record.group for record in records} == {"q?"}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"preference": [0, 1]}, "'preference' is wrong: expected 6"),
            ({"preference": [3] * 6}, "'preference'"),
            ({"feedback": {"errors": [{"error type": "New"}], "missing-info": []}}, "'error type'"),
            ({"feedback": None}, "'feedback'"),
            ({"prediction 3": None}, "'prediction 3'"),
        ],
    )
    def test_refusals(self, change: Row, message: str) -> None:
        with pytest.raises(DataError, match=message):
            FineGrainedRLHF().records(FINE_GRAINED | change, "f:1")


class TestLabels:
    def test_directions(self) -> None:
        dialog = {"context": "c", "response": "r", "category": "Risk Ignorance"}
        assert only(DiaSafety(), dialog | {"label": "Unsafe"}).values == {"safety": 0.0}
        answer = {"user_query": "q", "chatgpt_response": "r"}
        assert only(HaluEval(), answer | {"hallucination": "yes"}).values == {"factuality": 0.0}
        harms = {"category": {"abuse": True, "fraud": False}}
        rating = only(BeaverTails(), {"prompt": "p", "response": "r", "is_safe": False} | harms)
        assert (rating.values, rating.metadata["harms"]) == ({"safety": 0.0}, ["abuse"])

    @pytest.mark.parametrize(
        ("format", "row", "field"),
        [
            (DiaSafety(), {"context": "c", "response": "r", "label": "safe"}, "label"),
            (HaluEval(), {"user_query": "q", "hallucination": "maybe"}, "hallucination"),
            (TruthfulQA(), {"prompt": "Q: q\nA: a\nTrue:", "completion": "yes"}, "completion"),
            (TruthfulQA(), {"prompt": "q", "completion": " yes"}, "prompt"),
            (
                BeaverTails(),
                {"prompt": "p", "response": "r", "category": {}, "is_safe": 1},
                "is_safe",
            ),
        ],
    )
    def test_other_labels_are_errors(self, format: OutcomeFormat, row: Row, field: str) -> None:
        with pytest.raises(DataError, match=f"'{field}' is wrong"):
            format.records(row, "f:1")

    def test_questions_end_at_the_first_answer(self) -> None:
        row = {"prompt": "Q: q?\nA: a\nA: b\nHelpful:", "completion": " no"}
        rating = only(TruthfulQA(), row)
        assert (rating.prompt, rating.response) == ("q?", "a\nA: b")
        assert rating.values == {"informativeness": 0.0}
        empty = only(TruthfulQA(), {"prompt": "Q: q?\nA: \nTrue:", "completion": " no"})
        assert (empty.response, empty.values) == ("", {"factuality": 0.0})


class TestHelpSteer:
    def test_grades_and_turns(self) -> None:
        prompt = "a\n\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc"
        rating = only(HelpSteer(), HELP_STEER | {"prompt": prompt, "verbosity": 0})
        assert list(rating.prompt) == conversation("a", "b", "c")
        assert list(rating.values.values()) == [3, 3, 3, 3, 0]

    @pytest.mark.parametrize("grade", [5, -1, 2.5, "3", None])
    def test_grades_out_of_range(self, grade: object) -> None:
        with pytest.raises(DataError, match="'coherence'"):
            HelpSteer().records(HELP_STEER | {"coherence": grade}, "f:1")

    @pytest.mark.parametrize(
        "attributes", [{"beauty": "x"}, {}, {"coherence": "x", "verbosity": "x"}]
    )
    def test_wrong_attributes(self, attributes: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match="attributes is wrong"):
            HelpSteer(attributes=attributes)

    @pytest.mark.parametrize(
        ("preference", "responses", "strength"),
        [(-3, ("a", "b"), 3.0), (1, ("b", "a"), 1.0), (0, ("a", "b"), None)],
    )
    def test_preferences_of_both_layouts(
        self, preference: int, responses: Any, strength: float | None
    ) -> None:
        second = {"prompt": "p", "response_1": "a", "response_2": "b"}
        third = {"context": conversation("p"), "response1": "a", "response2": "b", "domain": "stem"}
        pairs = [
            only(HelpSteerPreference(), second | {"preference_strength": preference}),
            only(HelpSteerPreference(), third | {"overall_preference": preference}),
        ]
        assert {pair.responses for pair in pairs} == {responses}
        assert [pair.strength for pair in pairs] == [strength] * 2
        assert pairs[0].prompt == pairs[1].prompt
        assert pairs[1].metadata == {SUBSET: "stem"}

    def test_votes(self) -> None:
        row = {"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 1}
        single = [{"strength": s, "justification": ""} for s in (1, 2, 0, -1)]
        pair = only(HelpSteerPreference(), row | {"all_preferences_unprocessed": single})
        assert (pair.responses, pair.votes) == (("b", "a"), (2.5, 1.5))

    @pytest.mark.parametrize("preference", [4, "1", None])
    def test_unknown_preferences(self, preference: object) -> None:
        row = {"prompt": "p", "response_1": "a", "response_2": "b"}
        with pytest.raises(DataError, match="'preference_strength'"):
            HelpSteerPreference().records(row | {"preference_strength": preference}, "f:1")


class TestUltraFeedback:
    def test_one_rating_per_completion(self) -> None:
        row = {
            "instruction": "i",
            "source": "flan",
            "completions": [
                completion("a", helpfulness="5", honesty="N/A"),
                completion("b", helpfulness="2", honesty="1"),
            ],
        }
        attributes = {"helpfulness": "helpfulness", "honesty": "factuality"}
        ratings = UltraFeedback(attributes=attributes).records(row, "f:1")
        assert [rating.values for rating in ratings if isinstance(rating, Rating)] == [
            {"helpfulness": 5.0, "factuality": None},
            {"helpfulness": 2.0, "factuality": 1.0},
        ]
        assert {rating.metadata[SUBSET] for rating in ratings} == {"flan"}
        with pytest.raises(DataError, match="'instruction_following' is missing"):
            UltraFeedback().records(row, "f:1")

    @pytest.mark.parametrize("grade", ["6", "", 3, None])
    def test_unknown_grades(self, grade: Any) -> None:
        row = {"instruction": "i", "completions": [completion("a", honesty=grade)]}
        with pytest.raises(DataError, match="'Rating'"):
            UltraFeedback(attributes={"honesty": "honesty"}).records(row, "f:1")

    def test_no_completions(self) -> None:
        with pytest.raises(DataError, match="'completions'"):
            UltraFeedback().records({"instruction": "i", "completions": []}, "f:1")

    def test_binarized(self) -> None:
        row = {"prompt": "p", "chosen": conversation("p", "a"), "rejected": conversation("p", "b")}
        pair = only(UltraFeedbackBinarized(), row | {"score_chosen": 8.5, "score_rejected": 7.0})
        assert (pair.responses, pair.strength) == (("a", "b"), 1.5)
        tie = only(UltraFeedbackBinarized(), row | {"score_chosen": 7, "score_rejected": 7})
        assert (tie.is_tie, tie.strength) == (True, None)
        with pytest.raises(DataError, match="'score_chosen' is below"):
            UltraFeedbackBinarized().records(row | {"score_chosen": 1, "score_rejected": 2}, "f:1")


class TestPairs:
    def test_pku(self) -> None:
        helpful, safer, *ratings = PKUSafeRLHF().records(PKU, "f:1")
        assert (helpful.objectives, helpful.responses) == (("helpfulness",), ("zero", "one"))
        assert (safer.objectives, safer.responses) == (("safety",), ("one", "zero"))
        assert [r.values for r in ratings if isinstance(r, Rating)] == [
            {"safety": 0.0},
            {"safety": 1.0},
        ]

    @pytest.mark.parametrize(
        ("field", "value"),
        [("better_response_id", 2), ("safer_response_id", -1), ("is_response_1_safe", 1)],
    )
    def test_pku_refusals(self, field: str, value: object) -> None:
        with pytest.raises(DataError, match=f"'{field}'"):
            PKUSafeRLHF().records(PKU | {field: value}, "f:1")

    def test_message_lists(self) -> None:
        better, worse = conversation("p", "a"), conversation("p", "b")
        skywork = only(SkyworkPreference(), {"chosen": better, "rejected": worse, "source": "x"})
        pair = only(MessagePairs(), {"text_chosen": better, "text_rejected": worse, "domain": "x"})
        assert skywork.responses == pair.responses == ("a", "b")
        assert skywork.metadata[SUBSET] == pair.metadata[SUBSET] == "x"


class TestOutcomes:
    def test_candidates_are_unrated_records_of_one_group(self) -> None:
        row = {"id": "q7", "prompt": "p", "responses": ["a", "b"], "ranks": None}
        records = Outcomes().records(row, "f:1")
        assert [(r.id, r.group, r.responses, r.objectives) for r in records] == [
            ("q7.0", "p", ("a",), ()),
            ("q7.1", "p", ("b",), ()),
        ]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"response": "a"}, "'prompt' is missing"),
            ({"prompt": "p", "chosen": "a", "rejected": "b"}, "'objective' is missing"),
            ({"prompt": "p", "chosen": "a", "objective": "x"}, "'rejected' is missing"),
            ({"prompt": "p", "response": "a", "ratings": {"x": "good"}}, "'x' is wrong"),
            ({"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2], "objective": "x"}, "ranks"),
        ],
    )
    def test_refusals(self, row: Row, message: str) -> None:
        with pytest.raises(DataError, match=message):
            Outcomes().records(row, "f:1")

    def test_the_row_names_the_objective_before_the_option_does(self) -> None:
        row = {"prompt": "p", "chosen": "a", "rejected": "b"}
        assert only(Outcomes(objective="x"), row).objective == "x"
        assert only(Outcomes(objective="x"), row | {"objective": "y"}).objective == "y"


COMPARISONS = [
    Comparison("p", ["a", "b"], objective="x", strength=2, votes=[3, 1], id="1", source="s"),
    Comparison("p", ["a", "b"], [0, 0], objective="x", votes=[1, 1], id="2", source="s"),
    Comparison("p", ["a", "b", "c"], [1, 0, 1], objective="y", id="3", source="s", group="g"),
    Comparison("p", ["a", "b"], objective="x", id="4", source="s", metadata={"k": [1, None]}),
]
RATINGS = [
    Rating("p", "a", {"x": 1, "y": None}, id="1", source="s"),
    Rating("p", "", {"x": 0.5, "y": 3}, id="2", source="s", metadata={"k": "v"}),
]


class TestWriting:
    @pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
    @pytest.mark.parametrize(
        "records",
        [
            COMPARISONS,
            COMPARISONS[:1],
            RATINGS,
            [Rating("p", "a", id="1", source="s")],
            [Rating(conversation("p"), "a", {"x": 1}, id="1", source="s")],
        ],
        ids=["comparisons", "pair", "ratings", "unrated", "conversation"],
    )
    def test_what_is_written_reads_back_equal(
        self, tmp_path: Path, suffix: str, records: list[Outcome]
    ) -> None:
        path = tmp_path / f"a{suffix}"
        assert write_records(records, path) == len(records)
        assert Source(str(path), Outcomes()).load() == records

    def test_types_share_json_lines_but_no_parquet_file(self, tmp_path: Path) -> None:
        mixed: list[Outcome] = [COMPARISONS[0], RATINGS[1]]
        write_records(mixed, tmp_path / "a.jsonl")
        assert Source(str(tmp_path / "a.jsonl"), Outcomes()).load() == mixed
        for other in (RATINGS[0], Chain("p", ["a"])):
            with pytest.raises(OutputError, match=r"different types .* JSON lines"):
                write_records([COMPARISONS[0], other], tmp_path / "a.parquet")
        assert not (tmp_path / "a.parquet").exists()


class TestOutcomeSource:
    def test_records_of_a_row_are_numbered_and_share_their_origin(self, tmp_path: Path) -> None:
        row = {"prompt": "p", "responses": ["a", "b"]}
        path = tmp_path / "mine.json"
        path.write_text(json.dumps([row, {"prompt": "q", "response": "c"}]))
        records = Source(str(path), Outcomes()).load()
        assert [record.id for record in records] == ["mine-0.0", "mine-0.1", "mine-1"]
        assert [record.origin for record in records] == [f"{path}[{i}]" for i in (0, 0, 1)]

    @pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
    def test_weights_are_above_0(self, weight: float) -> None:
        with pytest.raises(ConfigError, match="weight is wrong"):
            Source("a.jsonl", Outcomes(), name="a", weight=weight)


class TestOutcomeColumns:
    def test_ratings_by_value_scale_and_number(self) -> None:
        reading = OutcomeColumns(
            prompt="q",
            response="a",
            ratings={"safety": "toxic", "helpfulness": "stars", "factuality": "true", "x": "n"},
            values={"factuality": {"true": 1, "false": 0}},
            scales={"safety": (1, 0), "helpfulness": (1, 5)},
            id="i",
            group="g",
            subset="s",
        )
        row = {"q": "p", "a": "r", "toxic": "0.25", "stars": 4, "true": False, "n": "", "s": "t"}
        rating = only(reading, row | {"i": 7, "g": "g1"})
        assert rating.values == {"safety": 0.75, "helpfulness": 0.75, "factuality": 0.0, "x": None}
        assert (rating.id, rating.group, rating.metadata) == ("7", "g1", {SUBSET: "t"})

    def test_pairs_and_rankings(self) -> None:
        pairs = OutcomeColumns(chosen="w", rejected="l", margin="m", objective="safety")
        pair = only(pairs, {"prompt": "p", "w": "a", "l": "b", "m": "2"})
        assert (pair.responses, pair.strength, pair.objective) == (("a", "b"), 2.0, "safety")
        ranking = OutcomeColumns(responses="r", ranks="k", objective="x")
        record = only(ranking, {"prompt": "p", "r": '["a", "b", "c"]', "k": "[1, 0, 1]"})
        assert (record.responses, record.ranks) == (("a", "b", "c"), (1, 0, 1))

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"prompt": "p", "response": "r"}, "no column 'label'"),
            ({"prompt": "p", "response": "r", "label": "unsure"}, "'label' is wrong: .*Safe"),
            ({"prompt": "p", "response": None, "label": "Safe"}, "'response' is wrong"),
        ],
    )
    def test_wrong_rows(self, row: Row, message: str) -> None:
        reading = OutcomeColumns(
            response="response", ratings={"safety": "label"}, values={"safety": {"Safe": 1}}
        )
        with pytest.raises(DataError, match=message):
            reading.records(row, "f:1")

    def test_text_is_no_number(self) -> None:
        reading = OutcomeColumns(response="r", ratings={"x": "n"})
        for cell in ("good", "nan", [1]):
            with pytest.raises(DataError, match="'n' is wrong: expected a number"):
                reading.records({"prompt": "p", "r": "r", "n": cell}, "f:1")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "columns of the responses"),
            ({"response": "r", "chosen": "c", "rejected": "d"}, "columns of the responses"),
            ({"chosen": "c", "objective": "x"}, "columns of the responses"),
            ({"responses": "c", "objective": "x"}, "columns of the responses"),
            ({"chosen": "c", "rejected": "d"}, "`objective` names"),
            ({"response": "r", "objective": "x"}, "`objective` names"),
            ({"chosen": "c", "rejected": "d", "objective": "x", "ratings": {"y": "c"}}, "go with"),
            ({"response": "r", "margin": "m"}, "go with"),
            ({"response": "r", "values": {"x": {"a": 1}}}, "of 'x' is wrong"),
            ({"response": "r", "ratings": {"x": "c"}, "scales": {"x": (1, 1)}}, "scale of 'x'"),
        ],
    )
    def test_wrong_options(self, options: Row, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            OutcomeColumns(**options)
