"""Prompts: from text, chat, token ids or files to the tokens that are attributed."""

from iglens_tl.prompts.files import read_prompts as read_prompts
from iglens_tl.prompts.prompt import PromptLike as PromptLike
from iglens_tl.prompts.prompt import as_plain_list as as_plain_list
from iglens_tl.prompts.prompt import as_prompts as as_prompts
from iglens_tl.prompts.prompt import encode_prompt as encode_prompt
from iglens_tl.prompts.requests import Request as Request
from iglens_tl.prompts.requests import Tokens as Tokens
from iglens_tl.prompts.requests import bind_value as bind_value
from iglens_tl.prompts.requests import build_requests as build_requests
from iglens_tl.prompts.requests import per_prompt as per_prompt
from iglens_tl.prompts.requests import resolve_token as resolve_token
from iglens_tl.prompts.tokenization import TokenizingModel as TokenizingModel
from iglens_tl.prompts.tokenization import WithoutWeights as WithoutWeights
from iglens_tl.prompts.tokenization import token_string as token_string
