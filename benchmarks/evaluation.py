"""How fast the transformers engine answers GSM8K's test, and whether it answers as one prompt at a time does. CPU, fp32, greedy.

    python benchmarks/evaluation.py gsm8k/test.jsonl        (prints a Markdown table; about ten minutes on one core)

The model is made here: two layers, trained for half a minute on the questions and answers of the file, so that its choices are
no ties; so is its tokenizer. Contenders: Hugging Face's `generate` with one prompt at a time, the same with batches in file
order, and the engine. Exit code 1 where the engine is less than `BAR` times as fast as the first or gives another response.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from megatron_octo import generation, progress
from megatron_octo.evaluation.completions import Sampling
from megatron_octo.evaluation.transformers_engine import TransformersCompleter

BAR = 3.0
NEW_TOKENS = 64
BATCH_SIZE = 64
TRAINING_STEPS = 200
TRAINED_TOKENS = 96
EOS = "<|end_of_text|>"

#: Prompts to responses; `advance` is told how many there are.
Contender = Callable[[Sequence[str], progress.Advance], list[str]]


@dataclass(frozen=True)
class Result:
    name: str
    seconds: float
    responses: list[str]


def make_model(rows: Sequence[dict[str, str]], directory: Path) -> None:
    """A tokenizer and a model of the file's questions and answers."""
    texts = [f"{prompt(row)} {row.get('cot') or row['answer']}" for row in rows]
    tokenizer = _tokenizer(texts)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=256, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=1024, eos_token_id=0, bos_token_id=None,
        )
    )  # fmt: skip
    _train(model, [[*tokenizer(text)["input_ids"], 0][-TRAINED_TOKENS:] for text in texts])
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS, pad_token=EOS, padding_side="left")


def _train(model: LlamaForCausalLM, documents: Sequence[list[int]]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with progress.bar("train", total=TRAINING_STEPS, unit="steps") as advance:
        for step in range(TRAINING_STEPS):
            some = [documents[(8 * step + number) % len(documents)] for number in range(8)]
            width = max(map(len, some))
            batch = torch.tensor([ids + [0] * (width - len(ids)) for ids in some])
            loss = model(input_ids=batch, labels=batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            advance(1, f"loss {loss.item():.2f}")


def prompt(row: dict[str, str]) -> str:
    return f"Question: {row['question']}\nAnswer:"


def hugging_face(directory: Path, batch_size: int) -> Contender:
    """`generate` with `batch_size` prompts at a time, in the order given."""
    model, tokenizer = generation.load_model(directory, torch.float32), generation.load_tokenizer(directory)
    model.eval()

    def complete(prompts: Sequence[str], advance: progress.Advance) -> list[str]:
        responses: list[str] = []
        for start in range(0, len(prompts), batch_size):
            batch = tokenizer(list(prompts[start : start + batch_size]), return_tensors="pt", padding=True)
            batch.pop("token_type_ids", None)
            made = model.generate(**batch, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
            new = made[:, batch["input_ids"].shape[1] :]
            responses += tokenizer.batch_decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            advance(len(new))
        return responses

    return complete


def engine(directory: Path) -> Contender:
    completer = TransformersCompleter(directory, batch_size=BATCH_SIZE)
    sampling = Sampling(max_new_tokens=NEW_TOKENS, temperature=0.0, top_p=1.0, stop_strings=(), seed=0)

    def complete(prompts: Sequence[str], advance: progress.Advance) -> list[str]:
        responses: dict[int, str] = {}
        for batch in completer.complete(prompts, sampling, done=()):
            responses |= {place: completion.text for place, completion in batch}
            advance(len(batch))
        return [responses[place] for place in range(len(prompts))]

    return complete


def measured(name: str, contender: Contender, prompts: Sequence[str]) -> Result:
    contender(prompts[:2], lambda amount, note="": None)
    with progress.bar(name, total=len(prompts), unit="prompts") as advance:
        started = time.perf_counter()
        responses = contender(prompts, advance)
        return Result(name, time.perf_counter() - started, responses)


def table(results: Sequence[Result]) -> str:
    """Against the first of them."""
    first = results[0]
    rows = [
        f"| {each.name} | {each.seconds:.1f} | {len(each.responses) / each.seconds:.1f} | "
        f"{first.seconds / each.seconds:.1f}x | {_equal(each, first):,} of {len(first.responses):,} |"
        for each in results
    ]
    head = "| contender | seconds | prompts/s | speed | same response |\n|:--|--:|--:|--:|--:|"
    return "\n".join([head, *rows])


def _equal(each: Result, first: Result) -> int:
    return sum(mine == theirs for mine, theirs in zip(each.responses, first.responses, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help='JSONL of {"question", "answer"}, such as GSM8K\'s test')
    parser.add_argument("--limit", type=int, help="the first so many questions, for a try")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.file.read_text(encoding="utf-8").split("\n") if line]
    prompts = [prompt(row) for row in rows[: arguments.limit]]
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        make_model(rows, directory)
        results = [
            measured("HF generate, one at a time", hugging_face(directory, 1), prompts),
            measured(f"HF generate, {BATCH_SIZE} at a time", hugging_face(directory, BATCH_SIZE), prompts),
            measured(f"our engine, {BATCH_SIZE} at a time", engine(directory), prompts),
        ]
    print(f"{len(prompts):,} prompts, at most {NEW_TOKENS} new tokens, {torch.get_num_threads()} thread(s)\n")
    print(table(results))
    return int(results[0].seconds / results[-1].seconds < BAR or results[-1].responses != results[0].responses)


if __name__ == "__main__":
    sys.exit(main())
