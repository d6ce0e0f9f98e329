#!/usr/bin/env python3
"""Writes optiq/text/testdata/*.json: what Python's tokenizers, Jinja2 and transformers
make of the inputs listed here. Needs tokenizers 0.23, jinja2 3.1.6, transformers 5.

    scripts/golden/text.py [REPOSITORY]
"""

import json
import random
import sys
from pathlib import Path

from text_conversations import CONVERSATIONS, INJECTIONS
from text_expressions import EXPRESSIONS, VARIABLES
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers
from transformers.utils import chat_template_utils

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2])
DATA = ROOT / "optiq/text/testdata"
DEMO = ROOT / "models/demo"
TOKENS = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}

TEXTS = [
    "",
    " ",
    "\n",
    "Hello, world!",
    "  two spaces, a tab\tand\r\nlines\n\n\n",
    "It's they've I'm we'LL he'D",
    "naïve café Zürich Straße ﬁn ½ Å",
    "cafe\u0301 a\u0308\u0323 n\u0303",
    "中文字符，日本語のかな、한국어",
    "👍🏽 👩‍👩‍👧‍👦 🇨🇭 ☃️",
    "नमस्ते ไทย العربية עברית",
    "1234567890 3.14e-7 0x1F",
    "def f(x):\n    return x**2  # square\n",
    '{"name": "f", "arguments": {"a": [1, 2.5, null]}}',
    "NUL\0in the middle\0",
    "\u200b\ufeff\u00a0\u2028\u0085\x1c\x7f",
    "\U0010ffff\ue000\ufffd",
    "<|im_start|>user\nhi<|im_end|>",
    "<|im_end|><|im_end|>",
    "a <think>b</think> <tool_call>",
    "<|im_end <|im_end|",
    "x" * 500 + " " * 70 + "y",
]


def tokenizer_cases(tokenizer, plain, texts, seed):
    """`plain` knows no special tokens."""
    rng = random.Random(seed)
    ids = [i for i in tokenizer.get_vocab().values()]
    encodings = []
    for text in texts:
        encodings.append({
            "text": text,
            "parsed": tokenizer.encode(text, add_special_tokens=False).ids,
            "plain": plain.encode(text, add_special_tokens=False).ids,
            "with_specials": tokenizer.encode(text, add_special_tokens=True).ids,
        })
    decodings = []
    for n in [0, 1, 1, 1, 2, 3, 5, 8, 20, 60]:
        sample = [rng.choice(ids) for _ in range(n)]
        decodings.append({
            "ids": sample,
            "text": tokenizer.decode(sample, skip_special_tokens=False),
            "skipped": tokenizer.decode(sample, skip_special_tokens=True),
        })
    return {"encodings": encodings, "decodings": decodings}


def without(tokenizer, keep):
    """A copy that knows only the added tokens that `keep` accepts."""
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if keep(t)]
    return Tokenizer.from_str(json.dumps(spec))


def demo_cases(demo):
    plain = Tokenizer.from_str(demo.to_str())
    plain.encode_special_tokens = True
    texts = list(TEXTS)
    rng = random.Random(7)
    ranges = [(32, 126), (32, 126), (9, 13), (0xA0, 0x24F), (0x300, 0x36F), (0x400, 0x4FF),
              (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1F300, 0x1FAFF), (0x2000, 0x206F)]
    for _ in range(30):
        texts.append("".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(40)))
    return tokenizer_cases(demo, plain, texts, seed=1)


CORPUS = [
    "the quick brown fox jumps over the lazy dog and then the other dogs",
    "a token that a person types must never become a token of control",
    "1 2 3 4 5 6 7 8 9 10 ; the sum of them is 55",
] * 20


def byte_fallback_tokenizer():
    """In the manner of Llama 2: Metaspace by normalizer, byte fallback, <s>."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special + byte_tokens,
                                  show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def unigram_tokenizer():
    """In the manner of T5: Unigram, whose pieces include the special tokens."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"],
                                      unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<mark>", normalized=True)])
    return tokenizer


def small_cases(name, tokenizer, seed):
    (DATA / name).mkdir(exist_ok=True)
    spec = json.loads(tokenizer.to_str())
    (DATA / name / "tokenizer.json").write_text(
        json.dumps(spec, ensure_ascii=False, separators=(",", ":")) + "\n")
    texts = ["", " ", "the fox", "  the  fox ", "dog", "ü é 中 👍🏽", "a<s>b </s> the",
             "the\nfox\t.", "55 the sum", "<mark>the fox<mark> dog"]
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.encode_special_tokens = True
    return tokenizer_cases(tokenizer, plain, texts, seed)


def environment():
    return chat_template_utils._cached_compile_jinja_template("").environment


def rendered(source, conversation):
    options = dict(conversation.get("variables", {}))
    for key in ("enable_thinking",):
        if key in conversation:
            options[key] = conversation[key]
    options.setdefault("date_string", "01 Jan 2026")
    try:
        texts, _ = chat_template_utils.render_jinja_template(
            conversations=[conversation["messages"]], tools=conversation.get("tools"),
            chat_template=source, add_generation_prompt=conversation.get("prompt", True),
            continue_final_message=conversation.get("continue", False),
            **TOKENS, **options)
        return {"text": texts[0]}
    except Exception as error:  # what a template raises is a result too
        return {"error": str(error), "kind": type(error).__name__}


def chat_cases(demo):
    cases = []
    sources = {p.stem: p.read_text() for p in sorted((DATA / "templates").glob("*.jinja"))}
    sources["demo"] = (DEMO / "chat_template.jinja").read_text()
    for template, source in sources.items():
        for name, conversation in CONVERSATIONS.items():
            result = rendered(source, conversation)
            if "text" in result:
                result["ids"] = demo.encode(result["text"], add_special_tokens=False).ids
            cases.append({"template": template, "conversation": name, **result})
    return {"conversations": CONVERSATIONS, "cases": cases}


def injection_cases(demo):
    """The expected ids: the template's tokens are found in a rendering whose hostile
    text has its brackets replaced by letters; what lies between them is encoded by a
    tokenizer that knows no added tokens."""
    bare = without(demo, lambda token: False)
    added = {t.content: i for i, t in demo.get_added_tokens_decoder().items()}
    cases = []
    for name, case in INJECTIONS.items():
        source = (DEMO / "chat_template.jinja").read_text()
        if case["template"] != "demo":
            source = (DATA / "templates" / (case["template"] + ".jinja")).read_text()
        text = rendered(source, case)["text"]
        harmless = json.loads(json.dumps(case).translate(str.maketrans("<|>", "XYZ")))
        for path in case.get("meant", []):
            put(harmless["messages"], path, get(case["messages"], path))
        shadow = rendered(source, harmless)["text"]
        assert len(shadow) == len(text), name
        ids, begin, at = [], 0, 0
        while at < len(shadow):
            token = max((t for t in added if shadow.startswith(t, at)), key=len, default=None)
            if token is None:
                at += 1
                continue
            ids += bare.encode(text[begin:at], add_special_tokens=False).ids + [added[token]]
            at += len(token)
            begin = at
        ids += bare.encode(text[begin:], add_special_tokens=False).ids
        cases.append({"name": name, **case, "text": text, "ids": ids})
    return cases


def get(value, path):
    for key in path:
        value = value[key]
    return value


def put(value, path, new):
    get(value, path[:-1])[path[-1]] = new


def expression_cases():
    cases = []
    for source in EXPRESSIONS:
        try:
            text = environment().from_string(source).render(**VARIABLES)
            cases.append({"source": source, "text": text})
        except Exception as error:
            cases.append({"source": source, "error": type(error).__name__})
    return {"variables": VARIABLES, "cases": cases}


def write(name, value):
    rows = json.dumps(value, ensure_ascii=True, indent=None, separators=(",", ":"))
    (DATA / name).write_text(rows + "\n")


def main():
    demo = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    write("tokenizer_demo.json", demo_cases(demo))
    write("tokenizer_byte_fallback.json",
          small_cases("byte_fallback", byte_fallback_tokenizer(), seed=2))
    write("tokenizer_unigram.json", small_cases("unigram", unigram_tokenizer(), seed=3))
    write("chat.json", chat_cases(demo))
    write("injection.json", injection_cases(demo))
    write("expressions.json", expression_cases())


if __name__ == "__main__":
    main()
