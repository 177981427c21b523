"""llama_65b.py and gpt_neox_20b.py on other models of their architecture: Mistral, Qwen2, Qwen3, LLaMA 3, Pythia."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

import gpt_neox_20b
import llama_65b
from data.benchmark import sample, spider
from data.common.errors import UserError
from data.with_torch.models import fit_positions

pytestmark = pytest.mark.usefixtures("little")
SIZES = dict(vocab_size=2048, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4)
GROUPED = SIZES | dict(num_key_value_heads=2, tie_word_embeddings=True)
LONG = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, rope_theta=5e5,
            original_max_position_embeddings=2048)  # fmt: skip
WINDOWS = dict(use_sliding_window=True, sliding_window=640, max_window_layers=1)  # which packs exceed
MODELS = {
    "llama with biases": (llama_65b, LlamaConfig(**GROUPED, attention_bias=True)),
    "llama 3": (llama_65b, LlamaConfig(**GROUPED, max_position_embeddings=16384, rope_parameters=LONG)),
    "mistral": (llama_65b, MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=640)),
    "qwen2": (llama_65b, Qwen2Config(**GROUPED, **WINDOWS, max_position_embeddings=32768)),
    "qwen3": (llama_65b, Qwen3Config(**GROUPED | dict(num_attention_heads=6), head_dim=64)),
    "pythia": (gpt_neox_20b, GPTNeoXConfig(**SIZES, rotary_pct=0.25, use_parallel_residual=True)),
}


@pytest.fixture(params=MODELS, scope="module")
def model(request, tmp_path_factory):
    """A script, and the directory of a small random model with a tokenizer whose configuration names two ends."""
    script, config = MODELS[request.param]
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for name, weight in made.named_parameters():
        if name.endswith("bias"):
            weight.data.normal_()  # else a bias that is left out is not missed
    args = replace(script.Args(), **script.TINY, tiny=True)
    tokenizer = script.load_tokenizer(args, spider.load(sample.build()))
    made.generation_config.eos_token_id = [tokenizer.eos_token_id, 0]
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return script, folder


def test_it_trains_and_answers_with_schemas_shared_as_without(model, run):
    script, folder = model
    few = ("--data", "sample", "--model", str(folder), "--update_examples", "16", "--max_updates", "8", "--eval_every", "0")
    few += ("--max_input_tokens", "600", "--eval_examples", "8", "--max_output_tokens", "16", "--vary_schema", "0")
    few += ("--learning_rate", "3e-3")
    apart = run(script, *few, "--batch_size", "1", tiny=False, out="apart")
    beside = run(script, *few, tiny=False, out="beside")
    assert beside["losses"] == pytest.approx(apart["losses"], rel=1e-3)
    assert apart["losses"][7] < apart["losses"][0] - 0.1
    assert beside["result"]["model"] == str(folder)
    asked = ("--eval_only", "--model", str(beside["folder"]), "--data", "sample", "--eval_examples", "8")
    asked += ("--max_output_tokens", "16", "--max_input_tokens", "600")
    again = run(script, *asked, "--eval_batch_size", "1", tiny=False, out="again")
    written = [[prediction["predicted"] for prediction in each["predictions"]] for each in (beside, again)]
    assert written[0] == written[1]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_loss_is_the_models_own(model):
    script, folder = model
    args = replace(script.Args(), model=str(folder), max_input_tokens=384)
    base = script.base_of(vars(args), script.SCRIPT)
    config, tokenizer = script.load_config(args, base), script.load_tokenizer(args)
    ours = script.load_model(args, base, config, tokenizer, torch.device("cpu")).eval()
    reference = ours.get_base_model()
    benchmark = spider.load(sample.build())
    examples = benchmark.splits["dev"][:4]
    rows = {name: [getattr(e, name) for e in examples] for name in ("question", "db_id", "values", "sql")}
    columns = script.encode(rows, benchmark.schemas, tokenizer, 384, True)
    each = [dict(zip(columns, values)) | dict(db_id=e.db_id) for e, values in zip(examples, zip(*columns.values()))]
    own = 0.0
    for row in each:
        ids = torch.tensor([row["input_ids"] + row["labels"]])
        labels = torch.tensor([[-100] * len(row["input_ids"]) + row["labels"]])
        own += reference(input_ids=ids, labels=labels).loss.item() * len(row["labels"])
    batch = script.collate(each, tokenizer.pad_token_id)
    assert script.AnswerLoss(ours)(**batch).item() == pytest.approx(own, rel=1e-4)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # what is compiled on a GPU
        assert script.AnswerLoss(ours, blocks=True)(**batch).item() == pytest.approx(own, rel=1e-4)


def test_prompts_that_do_not_fit_the_window_or_the_positions_are_refused():
    options = dict(max_input_tokens=1792, max_output_tokens=256, save_4bit="", merge="")
    for config in (MistralConfig(sliding_window=1024), LlamaConfig(max_position_embeddings=1024)):
        with pytest.raises(UserError, match="are more than the model's 1,024 positions: lower them"):
            fit_positions(config, options)
    with pytest.raises(UserError, match="depend on a text's length"):
        fit_positions(LlamaConfig(rope_parameters=dict(rope_type="dynamic", factor=2.0, rope_theta=1e4)), options)


def test_a_window_goes_and_is_kept_in_what_is_saved():
    config = Qwen2Config(**GROUPED, **WINDOWS)
    fit_positions(config, dict(max_input_tokens=384, max_output_tokens=256, save_4bit="", merge=""))
    assert config.sliding_window is None and set(config.layer_types) == {"full_attention"}
    config = MistralConfig(sliding_window=4096)
    fit_positions(config, dict(max_input_tokens=1792, max_output_tokens=256, save_4bit="stored", merge=""))
    assert config.sliding_window == 4096
