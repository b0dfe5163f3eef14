import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

from pacx.evaluation.epochs import cosine_share, plan_epoch
from pacx.evaluation.heads import Question, Schedule, fresh_head, train_heads
from pacx.evaluation.validation import Validation
from pacx.statistics import macro_auroc

ROWS, VAL, WIDTH = 70, 40, 6


class Data:
    """Rows and their mirror images, with labels that can be read off them in part."""

    def __init__(self, outputs: int, unknown: float = 0.0, classes: bool = False) -> None:
        rng = np.random.default_rng(outputs)
        x = rng.normal(size=(ROWS + VAL, WIDTH)).astype(np.float32)
        mirrored = x[:ROWS] + 0.3 * rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
        z = x @ rng.normal(size=(WIDTH, outputs)) + rng.normal(size=(ROWS + VAL, outputs))
        y = np.eye(outputs)[z.argmax(axis=1)] if classes else (z > 0.5).astype(float)
        y[rng.random(len(y)) < unknown if classes else rng.random(y.shape) < unknown] = np.nan
        self.features = torch.from_numpy(np.concatenate([x, mirrored]))
        self.views = torch.stack([torch.arange(ROWS), ROWS + VAL + torch.arange(ROWS)], dim=1)
        self.val = torch.from_numpy(x[ROWS:])
        self.y, self.val_y = y[:ROWS], y[ROWS:]
        self.question = Question("classes" if classes else "labels", self.y, Validation(self.val_y))


def plain_training(data: Data, kind: str, rate: float, schedule: Schedule, seed: int) -> list[nn.Linear]:
    """What people write: nn.Linear, autograd, torch.optim.AdamW, one head. Returns the head after each epoch."""
    torch.manual_seed(seed)
    head = nn.Linear(WIDTH, data.y.shape[1])
    groups = [
        {"params": [head.weight], "weight_decay": schedule.weight_decay},
        {"params": [head.bias], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=schedule.epochs)
    states = []
    for epoch in range(schedule.epochs):
        plan = plan_epoch(ROWS, seed=seed, epoch=epoch)
        for start in range(0, ROWS, schedule.batch_size):
            rows = plan.order[start : start + schedule.batch_size]
            x = torch.stack([data.features[data.views[row, int(plan.mirrored[row])]] for row in rows])
            y = torch.from_numpy(data.y[rows]).float()
            if kind == "classes":
                known = ~y[:, 0].isnan()
                loss = F.cross_entropy(head(x)[known], y[known].argmax(dim=1))
            else:
                loss = F.binary_cross_entropy_with_logits(head(x)[~y.isnan()], y[~y.isnan()])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        cosine.step()
        states.append({name: value.clone() for name, value in head.state_dict().items()})
    return states


@pytest.mark.parametrize(
    ("outputs", "kind", "unknown"),
    [(1, "labels", 0.0), (3, "labels", 0.0), (3, "labels", 0.4), (4, "classes", 0.0), (3, "classes", 0.3)],
)
def test_each_head_is_what_autograd_and_the_optimiser_of_torch_make_of_it(outputs, kind, unknown):
    data = Data(outputs, unknown, classes=kind == "classes")
    schedule = Schedule((3e-3, 3e-2), batch_size=16, epochs=12)
    (heads,) = train_heads(data.features, data.views, [data.question], val=data.val, schedule=schedule, seed=5)
    for number, rate in enumerate(schedule.learning_rates):
        states = plain_training(data, kind, rate, schedule, seed=5)
        logits = [F.linear(data.val, state["weight"], state["bias"]) for state in states]
        aurocs = [macro_auroc(data.val_y, one.numpy()) for one in logits]
        best = int(np.argmax(aurocs))
        assert heads.epoch[number] == best
        assert heads.val_auroc[number] == pytest.approx(aurocs[best], abs=1e-12)
        mine = torch.addmm(heads.bias[number], data.val, heads.weight[number])
        assert torch.allclose(mine, logits[best], atol=1e-5)


def test_heads_of_several_questions_do_not_see_each_other():
    three, one, classes = Data(3, 0.2), Data(1), Data(4, classes=True)
    schedule = Schedule((1e-3, 1e-2, 1e-1), batch_size=32, epochs=5)
    questions = [three.question, classes.question, one.question]
    together = train_heads(three.features, three.views, questions, val=three.val, schedule=schedule, seed=1)
    for question, mine in zip(questions, together, strict=True):
        (alone,) = train_heads(three.features, three.views, [question], val=three.val, schedule=schedule, seed=1)
        assert torch.allclose(mine.weight, alone.weight, atol=1e-6)
        assert torch.allclose(mine.bias, alone.bias, atol=1e-6)
        assert mine.epoch.tolist() == alone.epoch.tolist()


def test_without_a_defined_auroc_the_last_epoch_is_kept():
    data = Data(1)
    schedule = Schedule((1e-2,), batch_size=16, epochs=3)
    blind = Question("labels", data.y, Validation(np.zeros((VAL, 1))))
    (heads,) = train_heads(data.features, data.views, [blind], val=data.val, schedule=schedule, seed=0)
    last = plain_training(data, "labels", 1e-2, schedule, seed=0)[-1]
    assert heads.epoch.tolist() == [2] and np.isnan(heads.val_auroc).all()
    assert torch.allclose(heads.weight[0].T, last["weight"], atol=1e-6)


def test_an_output_that_does_not_count_has_no_say_in_the_choice_of_the_epoch():
    rng = np.random.default_rng(0)
    target, score = rng.integers(0, 2, (30, 3)).astype(float), rng.normal(size=(1, 3, 30)).astype(np.float32)
    found = Validation(target, counted=np.array([True, False, True])).macro_auroc(score)
    expected = [roc_auc_score(target[:, k], score[0, k]) for k in (0, 2)]
    assert found[0] == pytest.approx(np.mean(expected), abs=1e-12)


def test_fast_auroc_counts_ties_and_leaves_out_the_unknown_like_the_slow_one():
    rng = np.random.default_rng(3)
    target = rng.choice([0.0, 1.0, np.nan], (200, 4))
    target[:, 3] = 1.0
    score = rng.integers(0, 5, (6, 4, 200)).astype(np.float32)
    found = Validation(target).macro_auroc(score)
    assert np.allclose(found, [macro_auroc(target[:, :3], one[:3].T) for one in score], atol=1e-12)
    assert np.isnan(Validation(target[:, 3:]).macro_auroc(score[:, 3:])).all()


def test_a_fresh_head_is_that_of_torch():
    torch.manual_seed(42)
    head = nn.Linear(WIDTH, 3)
    weight, bias = fresh_head(WIDTH, 3, seed=42)
    assert torch.equal(weight.T, head.weight) and torch.equal(bias, head.bias)


def test_an_epoch_depends_on_seed_and_number_and_sees_every_row_once_half_of_them_mirrored():
    plans = [plan_epoch(1000, seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert all(sorted(plan.order) == list(range(1000)) for plan in plans)
    assert np.array_equal(plans[0].order, plans[3].order) and np.array_equal(plans[0].mirrored, plans[3].mirrored)
    assert len({plan.order.tobytes() for plan in plans}) == len({plan.mirrored.tobytes() for plan in plans}) == 3
    assert all(450 < plan.mirrored.sum() < 550 for plan in plans)
    assert plans[0].order[:5].tolist() == [998, 162, 670, 664, 185]  # the same on every machine


def test_the_learning_rate_follows_half_a_cosine_from_the_first_epoch_on():
    assert cosine_share(0, epochs=40) == 1.0
    assert cosine_share(20, epochs=40) == pytest.approx(0.5)
    assert cosine_share(39, epochs=40) == pytest.approx(0.5 * (1 + math.cos(math.pi * 39 / 40)))
