"""Chat templates of real models against transformers: the same bytes, with tools, thinking, and floats in JSON.

The templates are those that tools/setup.sh unpacked next to the Jinja engine: llama.cpp's collection of what publishers ship. None is
part of this project.
"""
import json
import os
import pathlib

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from program import SOURCE, overproof

TEMPLATES = pathlib.Path(os.environ.get("OVERPROOF_CACHE", SOURCE / ".cache")) / "jinja/templates"
CHATML = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}"
          "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
ZEPHYR = ("{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
          "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
          "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n"
          "{% endif %}\n{% endfor %}")
FAMILIES = {
    "ChatML": CHATML, "Zephyr": ZEPHYR,
    "Llama 3.1": "meta-llama-Llama-3.1-8B-Instruct", "Llama 3.2": "meta-llama-Llama-3.2-3B-Instruct", "Qwen 2.5": "Qwen-Qwen2.5-7B-Instruct",
    "Qwen 3": "Qwen-Qwen3-0.6B", "QwQ": "Qwen-QwQ-32B", "Gemma 2": "google-gemma-2-2b-it", "Phi 3.5": "microsoft-Phi-3.5-mini-instruct",
    "GLM 4.6": "GLM-4.6", "GLM 4.7": "GLM-4.7-Flash", "DeepSeek R1": "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "DeepSeek 3.1": "deepseek-ai-DeepSeek-V3.1",
    "Mistral Nemo": "mistralai-Mistral-Nemo-Instruct-2407", "Hermes 3": "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "SmolLM3": "HuggingFaceTB-SmolLM3-3B",
    "Granite 3.3": "ibm-granite-granite-3.3-2B-Instruct", "Nemotron 3": "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "MiniMax M2": "MiniMax-M2",
    "Kimi K2": "Kimi-K2-Instruct", "gpt-oss": "openai-gpt-oss-120b", "Qwen 3 Coder": "Qwen3-Coder",
}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a place. \"Now\" & <here>",
        "parameters": {"type": "object", "properties": {"place": {"type": "string", "description": "Köln, 北京"}, "threshold": {"type": "number", "minimum": 0.1, "maximum": 1e20}},
                       "required": ["place"]}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "call12345", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "Köln", "threshold": 2.5}}}]}
USER, ANSWER = {"role": "user", "content": "Hi, wie geht's? 😀\n  <b>{{ x }}</b>"}, {"role": "assistant", "content": "Gut.  \n\nUnd dir?"}
CONVERSATIONS = {
    "one turn": {"messages": [USER], "add_generation_prompt": True},
    "system": {"messages": [{"role": "system", "content": " Be brief. "}, USER, ANSWER, {"role": "user", "content": " more "}], "add_generation_prompt": True},
    "answered": {"messages": [USER, ANSWER, {"role": "user", "content": "ok"}, {"role": "assistant", "content": "fine "}]},
    "thinking": {"messages": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nGut."}, {"role": "user", "content": "ok"},
                              {"role": "assistant", "content": "Yes.", "reasoning_content": "Is it? It is."}]},
    "no thinking": {"messages": [USER], "add_generation_prompt": True, "enable_thinking": False},
    "tools": {"messages": [USER], "tools": [TOOL], "add_generation_prompt": True},
    "tool call": {"messages": [USER, CALL, {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": "{\"temperature\": 21.5}"},
                               {"role": "assistant", "content": "21.5 degrees."}], "tools": [TOOL]},
}


def rendered(template, conversations, folder):
    (folder / "template.jinja").write_text(template, encoding="utf-8")
    (folder / "chats.jsonl").write_text("".join(json.dumps(c, ensure_ascii=False) + "\n" for c in conversations), encoding="utf-8")
    overproof("tokenizer", "render", "--chat-template", folder / "template.jinja", "--conversations", folder / "chats.jsonl", "--out", folder / "out.jsonl")
    return [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]


def theirs(template, conversation):
    """The text, or None where the template refuses the conversation."""
    rest = {k: v for k, v in conversation.items() if k not in ("messages", "tools")}
    try:
        return render_jinja_template(conversations=[conversation["messages"]], tools=conversation.get("tools"), chat_template=template, **rest)[0][0]
    except Exception as e:  # noqa: BLE001: any fault in a template is a refusal
        assert "Error" in type(e).__name__ or "Exception" in type(e).__name__
        return None


@pytest.mark.parametrize("family", FAMILIES)
def test_renders_as_transformers_does(family, tmp_path):
    template = FAMILIES[family]
    if "{" not in template:
        template = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    conversations = [c | {"bos_token": "<s>", "eos_token": "</s>"} for c in CONVERSATIONS.values()]
    both = 0
    for name, conversation, ours in zip(CONVERSATIONS, conversations, rendered(template, conversations, tmp_path)):
        expected = theirs(template, conversation)
        if expected is None:
            continue  # engines may differ in what they refuse, not in what they make
        assert ours.get("text") == expected, (name, ours.get("error"))
        both += 1
    assert both >= 2


BLOCKS = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
          "{% else %}{{ m['content'] }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


@pytest.fixture
def model(tmp_path):
    """A small model with a tokenizer of bytes and some merges."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(["user assistant system the of and to what is it in answer question\n\n"] * 8, trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]))
    folder = tmp_path / "model"
    LlamaForCausalLM(LlamaConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                                 max_position_embeddings=256)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": BLOCKS}))
    return folder


@pytest.mark.parametrize("by_blocks", [True, False])
def test_ids_and_masks_are_those_of_transformers(by_blocks, model, tmp_path):
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer
    chats = [[{"role": "user", "content": f"{i}\n\n what is it {'é' * i}"}, {"role": "assistant", "content": f"the answer {i} 😀"}, {"role": "user", "content": " and  "},
              {"role": "assistant", "content": "y" + "x" * i + "\n\n"}] for i in range(40)]
    # "assistant\n" and "\n\n" share the token "\n\n": transformers trains it, here a token is trained when its first byte is.
    chats[7][3]["content"] = "\n\n"
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": c, "name": f"{i:03}"}) + "\n" for i, c in enumerate(chats)))
    words = []
    if not by_blocks:
        (tmp_path / "plain.jinja").write_text(BLOCKS.replace("{% generation %}", "").replace("{% endgeneration %}", ""))
        words = ["--chat-template", tmp_path / "plain.jinja"]
    key = ["--key", tmp_path / "key.pem"]
    overproof("import", "--path", model, "--out", tmp_path / "run/teacher", *key)
    overproof("corpus", "--source", tmp_path / "chats.jsonl", "--tokenizer", tmp_path / "run/teacher", "--min-bytes", 1, "--held-out", 0.2, "--window-length", 16, *words,
              "--out", tmp_path / "run/corpus", *key)
    stored = load_file(tmp_path / "run/corpus/tokens.safetensors")
    theirs = AutoTokenizer.from_pretrained(model)
    separator = theirs.convert_tokens_to_ids("<|endoftext|>")
    compared = 0
    for line in (tmp_path / "run/corpus/documents.jsonl").read_text().splitlines():
        document = json.loads(line)
        expected = theirs.apply_chat_template(chats[int(document["name"])], return_dict=True, return_assistant_tokens_mask=True)
        at = slice(document["first_token"], document["first_token"] + document["tokens"])
        assert stored[document["split"]][at].tolist() == expected["input_ids"] + [separator]
        mask = stored[document["split"] + "_mask"][at].tolist()
        shared = [i for i, (ours, other) in enumerate(zip(mask, expected["assistant_masks"])) if ours != other]
        assert [theirs.decode(expected["input_ids"][i]) for i in shared] == (["\n\n"] if document["name"] == "007" else []), document["name"]
        assert len(mask) == len(expected["assistant_masks"]) + 1 and mask[-1] == 0
        assert document["trained"] == sum(mask)
        compared += 1
    assert compared == 40
    overproof("audit", "verify", tmp_path / "run")


def test_sampled_chats_are_what_transformers_renders(model, tmp_path):
    """Question and answer of a sampled chat, put through the template by transformers, are its text, and its ids up to where the model was cut off."""
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(model)
    key = ["--key", tmp_path / "key.pem"]
    overproof("import", "--path", model, "--out", tmp_path / "run/teacher", *key)
    overproof("sample", "--teacher", tmp_path / "run/teacher", "--out", tmp_path / "run/samples", "--chat", 1, "--system", "Ask.", "--count", 24, "--max-tokens", 120,
              "--temperature", 5, "--license", "MIT", *key)
    drawn = [json.loads(line) for line in (tmp_path / "run/samples/tokens.jsonl").read_text().splitlines()]
    documents = [json.loads(line) for line in (tmp_path / "run/samples/documents.jsonl").read_text().splitlines()]
    assert len(drawn) == 2 * len(documents) > 20
    ended = with_system = 0
    for document, question, answer in zip(documents, drawn[::2], drawn[1::2]):
        messages = [{"role": "user", "content": tokenizer.decode(question["tokens"])}, {"role": "assistant", "content": tokenizer.decode(answer["tokens"])}]
        text = (tmp_path / "run/samples" / document["name"]).read_bytes().decode()
        assert text == tokenizer.decode(document["ids"], clean_up_tokenization_spaces=False)
        system = [{"role": "system", "content": "Ask."}] if "system" in text.split("\n")[0] else []
        rendered = tokenizer.apply_chat_template(system + messages, tokenize=False)
        with_system += bool(system)
        ended += text == rendered
        assert text == rendered or rendered == text + "<|im_end|>\n"
    assert 0 < ended < len(documents) and 0 < with_system < len(documents)


@pytest.mark.parametrize("condition", ["tools is not none", "tools is none", "tools is defined", "not tools is defined", "tools", "documents is not none", "documents is defined",
                                       "documents", "tools is not none and tools | length > 0", "(tools or []) | length > 0", "tools is not defined or tools is none"])
def test_tools_and_documents_are_none_where_there_are_none(condition, tmp_path):
    template = "{% if " + condition + " %}yes{% else %}no{% endif %} {{ messages[0].content }}"
    conversations = [{"messages": [USER]}, {"messages": [USER], "tools": [TOOL]}, {"messages": [USER], "documents": [{"title": "a", "text": "b"}]}]
    for conversation, ours in zip(conversations, rendered(template, conversations, tmp_path)):
        assert ours.get("text") == theirs(template, conversation), (conversation, ours.get("error"))
