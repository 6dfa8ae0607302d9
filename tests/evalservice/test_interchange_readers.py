"""Logs of other tools, read: what they hold arrives, and what they contradict is told. Pure, on logs of our own."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import pytest

from evalservice.errors import InvalidInput
from evalservice.interchange.logs import find_logs, read_log, tool_of
from evalservice.interchange.reducers import number_of, reduced
from tests.evalservice.reading import run_of, values_of
from tests.logs import (
    QUESTIONS,
    STAMP,
    eee_log,
    inspect_header,
    inspect_json,
    inspect_members,
    inspect_sample,
    inspect_samples,
    lm_eval_log,
    lm_eval_rows,
    the_log,
    zipped,
    zstd_zipped,
)

# --- lm-evaluation-harness


def test_a_document_is_one_item_whatever_the_number_of_its_filters(tmp_path: Path) -> None:
    run = run_of(lm_eval_log(tmp_path))
    assert [item.id for item in run.items()] == ["q-0", "q-1", "q-2", "q-3"]
    assert values_of(run) == {"exact_match,strict": 0.5, "exact_match,loose": 0.75}
    assert run.stated == values_of(run)
    assert run.contradictions == ()


def test_a_document_becomes_the_test_case_that_its_file_would(tmp_path: Path) -> None:
    first = next(run_of(lm_eval_log(tmp_path)).items())
    assert (first.input, first.expected_output, first.metadata) == (QUESTIONS[0], 2, {"topic": "sums"})
    assert first.prompt == {"messages": [{"role": "user", "content": f"Question: {QUESTIONS[0]}\nAnswer:"}]}
    assert first.output == " 2"


def test_items_come_in_the_split_s_order_whatever_the_file_s(tmp_path: Path) -> None:
    rows = lm_eval_rows()
    shuffled = [rows[n] for n in (2, 0, 3, 1, 5, 7, 4, 6)]
    run = run_of(lm_eval_log(tmp_path, {"sums": shuffled}))
    assert [item.id for item in run.items()] == ["q-0", "q-1", "q-2", "q-3"]


def test_documents_whose_ids_repeat_are_called_by_their_index(tmp_path: Path) -> None:
    rows = [{**row, "doc": {**row["doc"], "id": "same"}} for row in lm_eval_rows()]
    assert [item.id for item in run_of(lm_eval_log(tmp_path, {"sums": rows})).items()] == ["0", "1", "2", "3"]


def test_a_task_s_samples_are_not_those_of_a_task_whose_name_begins_so(tmp_path: Path) -> None:
    other = lm_eval_rows(strict=(0.0,) * 4, loose=(0.0,) * 4)
    results = {
        "sums": {"exact_match,strict": 0.5, "exact_match,loose": 0.75},
        "sums_rep": {"exact_match,strict": 0.0, "exact_match,loose": 0.0},
    }
    runs = read_log(the_log(lm_eval_log(tmp_path, {"sums_rep": other, "sums": lm_eval_rows()}, results)))
    assert {run.task: values_of(run) for run in runs} == results


def test_multiple_choice_rows_have_texts_in_the_place_of_indices(tmp_path: Path) -> None:
    requests = {
        f"gen_args_{n}": {"arg_0": "Question: Red or blue?\nAnswer:", "arg_1": f" {text}"}
        for n, text in enumerate(("red", "blue"))
    }
    row = {
        "doc_id": 0,
        "doc": {"question": "Red or blue?", "choices": ["red", "blue"], "label": 1},
        "target": "1",
        "arguments": requests,
        "resps": [[["-8.893", "False"]], [["-1.5", "True"]]],
        "filtered_resps": [["-8.893", "False"], ["-1.5", "True"]],
        "filter": "none",
        "metrics": ["acc"],
        "acc": 1.0,
    }
    config = {
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "label",
        "doc_to_choice": "choices",
        "output_type": "multiple_choice",
    }
    path = lm_eval_log(tmp_path, {"mc": [row]}, {"mc": {"acc,none": 1.0}}, configs={"mc": config})
    [item] = run_of(path).items()
    assert (item.choices, item.expected_output, item.output) == (("red", "blue"), 1, "blue")
    assert item.info["loglikelihoods"][1] == {"logprob": -1.5, "greedy": True}
    assert item.id == "0"


def test_repeats_are_all_kept_and_a_chat_is_read_out_of_its_text(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    arguments = {"gen_args_0": {"arg_0": [json.dumps(messages)], "arg_1": {}}}
    rows = lm_eval_rows(resps=[["1", "2", "2"]], arguments=arguments, target="['2', 'two']")
    first = next(run_of(lm_eval_log(tmp_path, {"sums": rows})).items())
    assert (first.output, first.prompt) == (["1", "2", "2"], {"messages": messages})


def test_what_is_no_score_has_no_value_and_no_mean(tmp_path: Path) -> None:
    rows = lm_eval_rows(metrics=["bypass"], bypass=None)
    results = {"sums": {"bypass,strict": 999, "bypass_stderr,strict": "N/A", "bypass,loose": 999}}
    run = run_of(lm_eval_log(tmp_path, {"sums": rows}, results))
    assert values_of(run) == {"bypass,strict": None, "bypass,loose": None}
    assert run.stated == {}


def test_a_metric_that_is_no_mean_is_left_out_and_told(tmp_path: Path) -> None:
    rows = lm_eval_rows(metrics=["exact_match", "perplexity", "f1"], perplexity=-2.5, f1=[1, 0])
    path = lm_eval_log(tmp_path, {"sums": rows})
    document = json.loads(path.read_text())
    document["configs"]["sums"]["metric_list"].append({"metric": "perplexity", "aggregation": "perplexity"})
    path.write_text(json.dumps(document))
    run = run_of(path)
    assert set(values_of(run)) == {"exact_match,strict", "exact_match,loose"}
    assert "perplexity,strict: aggregated by perplexity, which is no mean over test cases" in run.notes
    assert "f1,loose: its values are no numbers" in run.notes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n-samples": {"sums": {"original": 4, "effective": 5}}}, "5 test cases are stated, the rows have 4"),
        (
            {"results": {"sums": {"exact_match,strict": 0.5, "acc,none": 0.1}}},
            "acc,none: stated 0.1, but no row has it",
        ),
        (
            {
                "results": {"sums": {"exact_match,strict": 0.5}, "all": {"exact_match,strict": 0.9}},
                "group_subtasks": {"all": ["sums"]},
            },
            "group all: exact_match,strict: stated 0.9, but 0.5 from the rows of 1 tasks",
        ),
    ],
)
def test_what_a_results_file_states_beyond_its_rows_is_a_contradiction(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    assert any(said in each for each in run_of(lm_eval_log(tmp_path, **changes)).contradictions)


def test_results_without_samples_say_how_to_get_them(tmp_path: Path) -> None:
    path = lm_eval_log(tmp_path)
    (tmp_path / f"samples_sums_{STAMP}.jsonl").unlink()
    with pytest.raises(InvalidInput, match="--log_samples"):
        read_log(the_log(path))


# --- Inspect AI


def packed_json(folder: Path) -> Path:
    return inspect_json(folder)


def packed_deflate(folder: Path) -> Path:
    return zipped(folder / "log.eval", inspect_members())


def packed_zstd(folder: Path) -> Path:
    return zstd_zipped(folder / "log.eval", inspect_members())


def packed_frames(folder: Path) -> Path:
    return zstd_zipped(folder / "log.eval", inspect_members(), frames=3)


PACKINGS = (packed_json, packed_deflate, packed_zstd, packed_frames)


@pytest.mark.parametrize("packed", PACKINGS)
def test_a_log_is_the_same_however_it_is_packed(tmp_path: Path, packed: Any) -> None:
    run = run_of(packed(tmp_path))
    assert values_of(run) == {"match": 0.75} == run.stated
    assert (run.model, run.task, run.tool_version, run.epochs) == ("openai/large", "sums", "0.3.285", 2)
    assert [item.id for item in run.items()] == ["q-0", "q-1", "q-2", "q-3"]
    assert run.contradictions == ()


def test_an_epoch_s_error_leaves_the_item_its_other_epochs(tmp_path: Path) -> None:
    item = list(run_of(inspect_json(tmp_path)).items())[2]
    score = item.scores["imported"]
    assert (item.error, score.values) == (None, {"match": 1.0})
    assert [sample.status for sample in score.samples] == ["model_failed", "scored"]
    assert item.info["samples"][0]["error"] == {"message": "it broke"}
    assert (item.input_tokens, item.output_tokens, item.total_tokens) == (20, 4, 24)


def test_an_item_that_failed_in_every_epoch_has_its_error(tmp_path: Path) -> None:
    failed = {"scores": {}, "error": {"message": "it broke"}, "output": {"choices": []}}
    samples = [inspect_sample(0, 1, "C"), inspect_sample(1, 1, "I") | failed]
    run = run_of(inspect_json(tmp_path, samples, inspect_header(1.0, 2)))
    assert [item.error for item in run.items()] == [None, "it broke"]
    assert values_of(run) == {"match": 1.0}


def test_nan_means_unscored(tmp_path: Path) -> None:
    samples = [inspect_sample(0, 1, 2.0), inspect_sample(1, 1, math.nan), inspect_sample(2, 1, 17)]
    path = inspect_json(tmp_path, samples, inspect_header(9.5, 3))
    assert "NaN" in path.read_text()
    assert values_of(run_of(path)) == {"match": 9.5}


def test_a_dictionary_has_a_metric_for_each_key(tmp_path: Path) -> None:
    samples = [inspect_sample(n, 1, {"length": n, "digit": True}) for n in range(4)]
    header = inspect_header(1.5, 4)
    header["results"]["scores"][0] |= {"name": "length"}
    run = run_of(inspect_json(tmp_path, samples, header))
    assert values_of(run) == {"match/length": 1.5, "match/digit": 1.0}
    assert run.stated == {"match/length": 1.5}


def test_each_reducer_is_a_metric_of_its_own(tmp_path: Path) -> None:
    header = inspect_header(0.75)
    [score] = header["results"]["scores"]
    others = (("max", 0.875), ("pass_at_2", 0.75), ("my_own", 0.1))
    header["results"]["scores"] = [
        {**score, "reducer": "mean"},
        *({**score, "reducer": name, "metrics": {"accuracy": {"value": value}}} for name, value in others),
    ]
    run = run_of(inspect_json(tmp_path, header=header))
    assert values_of(run) == {"match": 0.75, "match/max": 0.875, "match/pass_at_2": 0.75} == run.stated
    assert run.notes == ("match/my_own: its epochs are reduced by my_own, which is not known here",)


@pytest.mark.parametrize(
    ("reducer", "epochs", "value"),
    [
        ("mean", [1.0, 0.0, 0.5], 0.5),
        ("median", [1.0, 0.0, 0.5], 0.5),
        ("mode", [0.0, 1.0, 1.0], 1.0),
        ("at_least_2", [1.0, 0.0, 1.0], 1.0),
        ("at_least_3", [1.0, 0.0, 1.0], 0.0),
        ("pass_at_1", [1.0, 0.0, 0.0], 1 / 3),
        ("pass_at_2", [1.0, 0.0, 0.0], 2 / 3),
        ("mean", [], None),
    ],
)
def test_epochs_are_reduced_as_inspect_does(reducer: str, epochs: list[float], value: float | None) -> None:
    assert reduced(reducer, epochs) == (value if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("given", "number"),
    [("C", 1), ("I", 0), ("P", 0.5), ("N", 0), ("yes", 1), ("False", 0), ("0.25", 0.25), (True, 1), (3, 3),
     (math.nan, None), ("nan", None), ("perhaps", None), (None, None), ([1], None), (10**400, None)],
)  # fmt: skip
def test_scores_are_numbers_as_in_inspect(given: Any, number: float | None) -> None:
    assert number_of(given) == number


def test_attachments_are_in_their_place_and_message_ids_nowhere(tmp_path: Path) -> None:
    messages = [{"id": "random", "role": "user", "content": "attachment://abc"}]
    sample = inspect_sample(0, 1, "C", input=messages, attachments={"abc": "the long text"})
    [item] = run_of(inspect_json(tmp_path, [sample], inspect_header(1.0, 1))).items()
    assert item.input == {"messages": [{"role": "user", "content": "the long text"}]}


def test_a_log_that_failed_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    header = {**inspect_header(), "status": "error", "results": None}
    run = run_of(inspect_json(tmp_path, inspect_samples()[:3], header))
    assert (len(list(run.items())), run.stated) == (3, {})
    assert run.notes == ("the log's status is 'error'",)


def test_a_log_that_was_never_finished_has_its_journal_in_the_header_s_place(tmp_path: Path) -> None:
    members = inspect_members()
    header = json.loads(members.pop("header.json"))
    members["_journal/start.json"] = json.dumps({name: header[name] for name in ("version", "eval")}).encode()
    run = run_of(zstd_zipped(tmp_path / "log.eval", members))
    assert (values_of(run), run.notes) == ({"match": 0.75}, ("the log's status is 'started'",))


def test_a_lost_sample_is_a_contradiction(tmp_path: Path) -> None:
    run = run_of(inspect_json(tmp_path, inspect_samples()[:-1]))
    assert run.contradictions == ("8 samples are stated, the log has 7",)


# --- which file is what


def test_a_folder_s_logs_are_found_with_what_belongs_to_them(tmp_path: Path) -> None:
    lm_eval_log(tmp_path / "a" / "org__large")
    eee_log(tmp_path / "b")
    zipped(tmp_path / "c" / "log.eval", inspect_members())
    inspect_json(tmp_path / "c")
    (tmp_path / "c" / "notes.json").write_text("{}")
    (tmp_path / "c" / "readme.txt").write_text("no log")
    found = find_logs(tmp_path)
    assert [tool_of(log) for log in found] == ["lm-eval", "every-eval-ever", "inspect", "inspect"]
    assert [len(log.paths) for log in found] == [2, 2, 1, 1]


def test_a_folder_without_a_log_and_rows_without_their_aggregates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a folder with logs of lm-eval, inspect"):
        find_logs(tmp_path)
    lm_eval_log(tmp_path)
    with pytest.raises(InvalidInput, match="rows only"):
        read_log(the_log(tmp_path / f"samples_sums_{STAMP}.jsonl"))


def test_a_member_that_occurs_twice_counts_as_it_was_written_last(tmp_path: Path) -> None:
    path = zipped(tmp_path / "log.eval", inspect_members())
    again = json.dumps(inspect_sample(1, 1, "C")).encode()
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("samples/q-1_epoch_1.json", again)
    assert values_of(run_of(path)) == {"match": 0.875}
