"""Adapt the model of alanine dipeptide to targets that it was not trained for, and measure it.

    python benchmarks/adapt.py --target hot --folder /tmp/hot --out benchmarks/adapt.json

`hot` is the force field of the model at 400 K, `vacuum` the same without solvent at 300 K, and
`amber14` ff14SB with OBC solvent at 300 K. The same call goes on where an earlier one was ended.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import openmm
import torch
from likelihood import machine
from openmm import app, unit
from openmmtools.states import ThermodynamicState

from openmm_tbg.adaptation import AdaptationSettings, adapt
from openmm_tbg.generator import BoltzmannGenerator
from openmm_tbg.potential import ReducedPotential
from openmm_tbg.reference import alanine_dipeptide

TARGETS = {
    "hot": (("amber99sbildn.xml", "amber99_obc.xml"), 400.0),
    "vacuum": (("amber99sbildn.xml",), 300.0),
    "amber14": (("amber14-all.xml", "implicit/obc1.xml"), 300.0),
}
DEFAULT = AdaptationSettings()


def potential_of(target: str, topology: app.Topology) -> ReducedPotential:
    files, temperature_K = TARGETS[target]
    system = app.ForceField(*files).createSystem(
        topology, nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False
    )
    state = ThermodynamicState(system, temperature_K * unit.kelvin)
    platform = openmm.Platform.getPlatformByName("Reference")
    return ReducedPotential(state, state.create_context(openmm.VerletIntegrator(0.001), platform))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=TARGETS, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--proposals", type=int, default=192)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=DEFAULT.training.n_steps)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = replace(
        DEFAULT,
        n_rounds=options.rounds,
        n_proposals=options.proposals,
        batch_size=options.batch,
        training=replace(DEFAULT.training, n_steps=options.steps),
    )
    topology = alanine_dipeptide().topology
    generator = BoltzmannGenerator.from_pretrained("alanine-dipeptide", topology)
    started = time.perf_counter()
    found = adapt(generator, potential_of(options.target, topology), options.folder, settings)
    print(found)
    record = json.loads(options.out.read_text()) if options.out.exists() else {}
    record[options.target] = {
        "machine": machine(),
        "settings": asdict(settings),
        "models": [asdict(model) for model in found.models],
        "gain": asdict(found.gain),
        "seconds_of_the_last_call": time.perf_counter() - started,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
