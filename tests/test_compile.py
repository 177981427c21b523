"""--compile: layers run compiled in training and in training alone, with the losses of layers that are not."""

import logging
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch._functorch import config as autograd
from torch.nn.attention import flex_attention
from transformers import AutoModelForCausalLM

import flan_t5_base
import gpt_neox_20b
import llama_65b
import T5_3B
from data.benchmark import sample, spider
from data.benchmark.schema import Benchmark
from data.common.errors import UserError
from data.run.options import check_options
from data.with_torch import quantised
from data.with_torch.memory import WORTH, compile_layers, compiles

FEW = ("--max_updates", "3", "--update_examples", "4", "--eval_examples", "2", "--max_output_tokens", "4", "--save_every", "-1")
SCRIPTS = {T5_3B: 4, flan_t5_base: 4, gpt_neox_20b: 4, llama_65b: 4}  # layers of the tiny model


SLOW = [pytest.param(script, marks=pytest.mark.slow) for script in (T5_3B, flan_t5_base, gpt_neox_20b)]


@pytest.fixture(params=[llama_65b, *SLOW], ids=lambda script: script.SCRIPT)
def script(request):
    return request.param


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A little of the sample, since the whole takes longer to encode than to train on."""
    real = spider.load

    def load(*directory, **options) -> Benchmark:
        benchmark = real(*directory, **options)
        return replace(benchmark, splits={split: examples[:96] for split, examples in benchmark.splits.items()})

    monkeypatch.setattr(spider, "load", load)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # so little work that threads only wait for each other
    yield
    torch.set_num_threads(before)


@pytest.fixture
def layers(monkeypatch):
    """What happens to layers that are compiled, by a backend that runs the graphs it is given as they are."""
    seen = dict(layers=[], graphs=0, calls=[])
    runs = 0

    def backend(graph, inputs):
        seen["graphs"] += 1

        def run(*values):
            nonlocal runs
            runs += 1
            return graph.forward(*values)

        return run

    real = torch.nn.Module.compile

    def compile(self, **options):
        real(self, backend=backend, **options)
        number = len(seen["layers"])
        seen["layers"].append(self)
        compiled = self._compiled_call_impl

        def call(*values, **named):
            before = runs, seen["graphs"]
            width = next(value for value in (*values, *named.values()) if torch.is_tensor(value)).shape[1]
            try:
                return compiled(*values, **named)
            finally:  # activations are recomputed only as far as they are needed: an exception ends it
                after = dict(runs=runs - before[0], graphs=seen["graphs"] - before[1])
                seen["calls"].append(dict(layer=number, training=self.training, width=width, **after))

        self._compiled_call_impl = call

    torch._dynamo.reset()
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)  # pytest would keep it, and take minutes
    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    yield seen
    torch._dynamo.reset()


def test_layers_are_compiled_for_training_alone_and_learn_as_others_do(script, run, layers):
    count = SCRIPTS[script]
    shared = ["--share_schema"] if hasattr(script.Args, "share_schema") else []
    options = (*FEW, *shared, "--eval_every", "1")
    plain = run(script, *options, out="plain")
    assert not layers["layers"] and not layers["calls"]
    for name, more in dict(compiled=[], recomputed=["--gradient_checkpointing", "on"]).items():
        torch._dynamo.reset()
        layers.update(layers=[], calls=[], graphs=0)
        compiled = run(script, *options, "--compile", "on", *more, out=name)
        assert len(compiled["losses"]) == 3 and compiled["losses"] == pytest.approx(plain["losses"], rel=1e-4)
        assert [row["predicted"] for row in compiled["predictions"]] == [row["predicted"] for row in plain["predictions"]]
        assert len(layers["layers"]) == count
        training, evaluation = ([call for call in layers["calls"] if call["training"] == which] for which in (True, False))
        # in each of three updates each layer, and again where transformers keeps the recomputation out of the graph
        often = len(training) // (3 * count)
        assert Counter(call["layer"] for call in training) == dict.fromkeys(range(count), 3 * often)
        assert often == 1 or often == 2 and name == "recomputed"
        assert all(call["runs"] for call in training)  # none runs as it is
        # evaluations before, between and after updates run the same layers as they are
        assert len(evaluation) >= 4 * count
        assert not any(call["runs"] or call["graphs"] for call in evaluation)
        # once for all layers of a kind, not once a layer and batch
        assert len({call["width"] for call in training}) >= 3
        assert layers["graphs"] <= 4 and not any(call["graphs"] for call in training[2 * often * count :])


@pytest.mark.parametrize("script", [gpt_neox_20b, llama_65b], ids=["gpt_neox_20b", "llama_65b"])
def test_compiled_layers_keep_less_for_the_same_gradients(script, monkeypatch):
    real, backend = torch.nn.Module.compile, "aot_eager_decomp_partition"  # which divides forward and backward as on a GPU
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: real(self, backend=backend, **options))
    model = AutoModelForCausalLM.from_config(script.Config(**script.TINY_CONFIG), dtype=torch.bfloat16)
    model = script.add_lora(model, script.Args(), None)
    layers, weights = quantised.layers_made_alike(model), [weight for weight in model.parameters() if weight.requires_grad]

    def bytes_kept() -> int:
        kept = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
            hidden = model.get_base_model().base_model(input_ids=torch.arange(200)[None], use_cache=False).last_hidden_state
        hidden.float().square().mean().backward()
        return sum(size for place, size in kept.items() if place not in {weight.data_ptr() for weight in model.parameters()})

    def gradients() -> list[torch.Tensor]:
        found = [weight.grad for weight in weights]
        model.zero_grad()
        return found

    torch._dynamo.reset()
    with autograd.patch(ban_recompute_materialized_backward=True, ban_recompute_used_far_apart=True):  # torch's own
        for layer in layers:
            layer.compile(dynamic=True)
        before, expected = bytes_kept(), gradients()
        torch._dynamo.reset()
        compile_layers(layers)
        after, found = bytes_kept(), gradients()
    torch._dynamo.reset()
    assert after < 0.75 * before
    assert any(gradient.any() for gradient in found)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("blocks", [False, True], ids=["dense mask", "in blocks"])
@pytest.mark.parametrize("script", [gpt_neox_20b, llama_65b], ids=["gpt_neox_20b", "llama_65b"])
def test_the_first_layer_is_compiled_as_the_others_and_once_for_all_widths(script, blocks, tmp_path, monkeypatch):
    """Of a frozen model it alone would have an input without a gradient, and take a compilation of its own."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *given: None)  # it refuses gradients on a CPU
    config = script.Config(**script.TINY_CONFIG)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    args, graphs = replace(script.Args(), model=str(tmp_path)), []
    base = script.base_of(vars(args), script.SCRIPT)
    tokenizer = script.load_tokenizer(replace(script.Args(), **script.TINY, tiny=True), spider.load(sample.build()))
    model = script.load_model(args, base, script.load_config(args, base), tokenizer, torch.device("cpu"))
    torch._dynamo.reset()

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    for layer in quantised.layers_made_alike(model):
        layer.compile(dynamic=True, backend=backend)
    loss = script.AnswerLoss(model, blocks).train()
    for count, length in ((1, 40), (3, 50), (2, 90), (1, 160), (4, 70)):
        rows = [dict(input_ids=[5 + number] * length, labels=[7] * 9, shared=length - 4) for number in range(count)]
        batch = script.collate(rows, tokenizer.eos_token_id, one_row=blocks)
        loss(**batch).backward()
    torch._dynamo.reset()
    assert len(graphs) <= 2  # of a single row, and of several
    model.eval()
    with torch.inference_mode():
        model(input_ids=batch["input_ids"])


def test_no_compiler_is_said_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UserError, match="--compile on needs a C compiler, and none is found: install gcc and g"):
        check_options(dict(tiny=True, random_weights=False, compile="on"))
    for choice in ("auto", "off"):
        check_options(dict(tiny=True, random_weights=False, compile=choice))
    (tmp_path / "gcc").touch(mode=0o755)
    check_options(dict(tiny=True, random_weights=False, compile="on"))


@pytest.mark.parametrize(
    ("choice", "gpu", "max_updates", "eval_only", "expected"),
    [
        ("auto", True, 0, False, True),
        ("auto", True, WORTH, False, True),
        ("auto", True, WORTH - 1, False, False),  # too short for what compiling takes
        ("auto", False, 0, False, False),
        ("auto", True, 0, True, False),
        ("off", True, 0, False, False),
        ("on", False, 3, False, True),
    ],
)
def test_layers_are_compiled_of_themselves_where_it_pays(monkeypatch, tmp_path, choice, gpu, max_updates, eval_only, expected):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert compiles(choice, gpu, max_updates, eval_only) == (choice == "on")  # there is no compiler
    (tmp_path / "gcc").touch(mode=0o755)
    assert compiles(choice, gpu, max_updates, eval_only) == expected
