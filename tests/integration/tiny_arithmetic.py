"""One-digit addition for a tiny Llama: taught in seconds to about one answer in two, for RL to go on from.

`make` writes the model and its questions; `recipe` is the GRPO run on them. The test and benchmarks/rl_trl.py share both.
"""

import itertools
import json
from pathlib import Path
from random import Random

import tiny_llama
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_octo import generation
from megatron_octo.grading import grade_all
from megatron_octo.rl.config import Engine, LengthStage, ReinforcementLearning, RLJob
from megatron_octo.templates import Template

SUMS = [(f"{a}+{b}", str(a + b)) for a, b in itertools.product(range(10), repeat=2)]
#: Share of the sums that the model knows before RL.
KNOWN = 0.35
#: Step from which responses may be longer.
LONGER_FROM = 10
SHORT_CAP, LONG_CAP = 11, 16
STEPS, WARMUP_STEPS, PEAK_LR = 150, 20, 5e-3


def make(directory: Path) -> tuple[Path, Path]:
    """The Hugging Face directory of the model, and the JSONL of all hundred questions."""
    model = directory / "model"
    _teach(model)
    questions = directory / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in SUMS))
    return model, questions


def accuracy(model: Path) -> float:
    """Greedy, over all hundred sums."""
    responses = generation.generate(
        generation.load_model(model, torch.float32),
        generation.load_tokenizer(model),
        [prompt(question) for question, _ in SUMS],
        max_new_tokens=LONG_CAP,
    )
    grades = grade_all([each.text for each in responses], [answer for _, answer in SUMS])
    return sum(grade.correct for grade in grades) / len(grades)


def prompt(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def recipe(*, train_steps: int = 60) -> ReinforcementLearning:
    """GRPO on all hundred sums."""
    return ReinforcementLearning(
        name="tiny_arithmetic",
        init_from="tests",
        engine=Engine.TRL,
        prompts="tests",
        template=Template.SIMPLE,
        prompts_per_step=50,
        samples_per_prompt=8,
        mini_batch_prompts=25,
        train_steps=train_steps,
        learning_rate=2e-4,
        kl_coef=0.0,
        temperature=1.0,
        top_p=1.0,
        max_prompt_tokens=32,
        length_schedule=(
            LengthStage(from_step=0, max_response_tokens=SHORT_CAP),
            LengthStage(from_step=LONGER_FROM, max_response_tokens=LONG_CAP),
        ),
        clip_epsilon=0.2,
        max_grad_norm=1.0,
        eval_interval=10,
        eval_sets=("sums",),
        save_interval=20,
    )


def job(model: Path, questions: Path) -> RLJob:
    return RLJob(recipe=recipe(), model=model, prompts=questions, eval_sets={"sums": questions})


def _teach(directory: Path) -> None:
    """Next-token training on the answers: of a third of the sums the right one, of the others one too many twice out of three times.

    So greedy decoding is right on about half of them, and sampling finds the others now and then.
    """
    rng = Random(0)
    known = set(rng.sample(range(len(SUMS)), int(KNOWN * len(SUMS))))
    tokenizer = tiny_llama.byte_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=64, eos_token_id=0, bos_token_id=1,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR)
    prompts = [tokenizer(prompt(question))["input_ids"] for question, _ in SUMS]
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * min(1, (step + 1) / WARMUP_STEPS) * (1 - step / STEPS)
        wrong = [index not in known and rng.random() < 2 / 3 for index in range(len(SUMS))]
        texts = [f" \\boxed{{{int(answer) + more}}}" for (_, answer), more in zip(SUMS, wrong, strict=True)]
        answers = [[*tokenizer(text)["input_ids"], 0] for text in texts]
        ids = _padded([p + a for p, a in zip(prompts, answers, strict=True)], 0)
        labels = _padded([[-100] * len(p) + a for p, a in zip(prompts, answers, strict=True)], -100)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _padded(rows: list[list[int]], filler: int) -> torch.Tensor:
    """(B, T)."""
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])
