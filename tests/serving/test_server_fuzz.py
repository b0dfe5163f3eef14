"""Damaged files through the service: an answer or a problem in plain words, soon; never a fault of the server.

`tests.data.mutations.mutate(NUMBER)` makes a file that failed again.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from benchmarks.load import Answer, Request, as_upload, keep_busy, problem_fault
from tests.data.mutations import mutate
from tests.data.seed_files import CANARY

LONGEST = 5.0
"""seconds for one file"""
BUSY = {429, 503}
"""no fault where the server says when to come again"""


def request(number: int) -> Request:
    """Send every third file as a bare body, every tenth form with damage to the form itself."""
    name, data = mutate(number)
    if number % 3 == 0:
        return Request("/v1/predict", data, label=f"{number}: {name}, bare")
    form = as_upload("/v1/predict", data, label=f"{number}: {name}")
    if number % 10 == 1:
        cut = form.body[: (number * 7919) % len(form.body)]
        return Request(form.path, cut, form.content_type, label=f"{form.label}, form cut")
    return form


def fault_of(answer: Answer) -> str:
    """Say what is wrong with an answer; empty if nothing is."""
    if answer.seconds > LONGEST:
        return f"took {answer.seconds:.1f} s"
    if answer.status in BUSY and answer.retry_after is not None:
        return ""
    if CANARY.encode() in answer.body:
        return f"a patient's name in the answer: {answer.body!r}"
    if answer.status == 200:
        return prediction_fault(answer.body)
    if 400 <= answer.status < 500:
        return problem_fault(answer)
    return f"status {answer.status} {answer.fault} {answer.body[:300]!r}"


def prediction_fault(body: bytes) -> str:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    try:
        results = json.loads(body, parse_constant=refuse)["results"]
        probabilities = [output["probability"] for output in results[0]["outputs"]]
    except (ValueError, LookupError, TypeError) as error:
        return f"not a prediction ({error!r}): {body[:300]!r}"
    good = len(results) == 1 and probabilities and all(0 <= probability <= 1 for probability in probabilities)
    return "" if good else f"not the probabilities of one image: {body[:300]!r}"


def send(server: str, num: int) -> tuple[str, list[int]]:
    """Send damaged files; return what was wrong with answers, and the statuses of all."""
    requests = [request(number) for number in range(num)]
    answers = keep_busy(server, requests, clients=4, total=num)
    answered = {answer.request.label for answer in answers if answer.status not in BUSY}
    faults = [f"{answer.request.label}: {fault}" for answer in answers if (fault := fault_of(answer))]
    faults += [f"{one.label}: no answer in the end" for one in requests if one.label not in answered]
    return "\n".join(faults[:20]), [answer.status for answer in answers]


def both_happened(statuses: list[int], num: int) -> bool:
    """Say whether enough files were read, and enough refused, for the test to mean anything."""
    return statuses.count(200) > num / 20 and sum(400 <= status < 500 for status in statuses) > num / 5


def test_damaged_files_get_a_prediction_or_a_problem(server: str) -> None:
    faults, statuses = send(server, 60)
    assert not faults
    assert both_happened(statuses, 60)


@pytest.mark.slow
def test_two_thousand_damaged_files_get_a_prediction_or_a_problem(server: str) -> None:
    faults, statuses = send(server, 2000)
    assert not faults
    assert both_happened(statuses, 2000)
