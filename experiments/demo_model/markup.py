"""Names the special tokens and writes conversations with them."""

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (PAD, BOS, EOS, SYSTEM, USER, ASSISTANT)

# The tokenizer's chat template: the same text as `chat_prompt`, with <bos> in front.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def chat_prompt(question: str) -> str:
    """Write a user's question up to the point where the assistant starts to answer."""
    return f"{USER}{question}{ASSISTANT}"


def is_chat(text: str) -> bool:
    """Tell whether a text uses the chat markup."""
    return USER in text
