"""llama.cpp as a contender, by its binding cyllama: greedy answers to the same prompts.

Its settings: `at_once` prompts are read and answered in one batch. What all prompts begin with is
read once and shared, as llama.cpp's server does it. Flash attention and the cache's float16 are
llama.cpp's defaults. The file's weights stay packed, which is what llama.cpp is good at.
"""

from __future__ import annotations

import time

from tools.bench.turns import Turns

PIECE = 512  # tokens in one call, llama.cpp's default


def shared_length(prompts: list[list[int]]) -> int:
    """How many tokens all prompts begin with; of each at least the last is read for itself."""
    most = min(map(len, prompts)) - 1
    return next((i for i in range(most) if len({prompt[i] for prompt in prompts}) > 1), most)


class Answers:
    """A model and its context. Raises ImportError where cyllama is missing."""

    def __init__(self, file: str, at_once: int, n_tokens: int, threads: int):
        from cyllama.llama import llama_cpp

        llama_cpp.disable_logging()
        self.model = llama_cpp.LlamaModel(
            path_model=file, params=llama_cpp.LlamaModelParams(), verbose=False)
        parameters = llama_cpp.LlamaContextParams()
        parameters.n_ctx, parameters.n_seq_max = n_tokens, at_once + 1
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.kv_unified = True  # the shared tokens are in the cache once
        self.context = llama_cpp.LlamaContext(model=self.model, params=parameters, verbose=False)
        self.sampler = llama_cpp.LlamaSampler(llama_cpp.LlamaSamplerChainParams())
        self.sampler.add_greedy()
        self.batch = llama_cpp.LlamaBatch(n_tokens=PIECE, embd=0, n_seq_max=at_once + 1)

    def read(self, tokens: list[tuple[int, int, int, bool]]) -> dict[int, int]:
        """Read (token, position, sequence, is last); the likeliest next token by sequence."""
        following = {}
        for first in range(0, len(tokens), PIECE):
            piece = tokens[first : first + PIECE]
            self.batch.reset()
            for token, position, sequence, is_last in piece:
                self.batch.add(token, position, [sequence], is_last)
            self.context.decode(self.batch)
            for i, (_, _, sequence, is_last) in enumerate(piece):
                if is_last:
                    following[sequence] = self.sampler.sample(self.context, i)
        return following

    def answer(self, prompts: list[list[int]], new_tokens: int, at_once: int) -> list[list[int]]:
        """`new_tokens` ids behind each prompt, whatever they are."""
        self.context.kv_cache_clear()
        n_shared, answers = shared_length(prompts), []
        self.read([(token, i, 0, False) for i, token in enumerate(prompts[0][:n_shared])])
        for first in range(0, len(prompts), at_once):
            now = dict(enumerate(prompts[first : first + at_once], start=1))
            for sequence in now:
                self.context.memory_seq_cp(0, sequence, 0, n_shared)
            following = self.read([
                (token, i, sequence, i == len(prompt) - 1) for sequence, prompt in now.items()
                for i, token in enumerate(prompt) if i >= n_shared])
            written = {sequence: [token] for sequence, token in following.items()}
            for n in range(new_tokens - 1):  # the last one is never read
                following = self.read([(token, len(now[sequence]) + n, sequence, True)
                                       for sequence, token in following.items()])
                for sequence, token in following.items():
                    written[sequence].append(token)
            answers += [written[sequence] for sequence in now]
            for sequence in now:
                self.context.memory_seq_rm(sequence, 0, -1)
        return answers


def main() -> None:
    """Take turns until nobody asks for another."""
    turns = Turns()
    request = turns.request
    prompts, at_once, new_tokens = request["prompts"], request["at_once"], request["new_tokens"]
    room = max(map(len, prompts)) + new_tokens
    llama = Answers(request["file"], at_once, (at_once + 1) * room, request["threads"])
    wanted = True
    while wanted:
        start = time.perf_counter()
        answers = llama.answer(prompts, new_tokens, at_once)
        wanted = turns.report({"answers": time.perf_counter() - start}, answers=answers)


if __name__ == "__main__":
    main()
