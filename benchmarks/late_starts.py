"""At which times a flow goes wrong: its samples when it starts late, from noised true frames.

    python benchmarks/late_starts.py --frames held_out --out late_starts.json

From t0 on the flow is integrated from (1 - t0) x0 + t0 x1 with frames x1 of the target. A perfect
flow gives the target whatever t0 is; the excess energy by terms of the force field that a start at
t0 leaves is what goes wrong after t0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import openmm
import torch
from evaluate_alanine import FrameRows, load_model
from likelihood import machine
from openmm import unit
from torchdiffeq import odeint

from openmm_tbg.filters import TopologyFilter
from openmm_tbg.grid import TimeGrid
from openmm_tbg.reference import alanine_dipeptide

STARTS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
STEPS = 80
CHUNK = 64


class Terms:
    """Energies in kT by the forces of the System."""

    def __init__(self) -> None:
        reference = alanine_dipeptide()
        kT = unit.MOLAR_GAS_CONSTANT_R * reference.temperature_K * unit.kelvin
        self._kT_kJ_per_mol = kT.value_in_unit(unit.kilojoule_per_mole)
        system = reference.system
        forces = system.getForces()
        for group, force in enumerate(forces):
            force.setForceGroup(group)
        self.names = [force.getName() for force in forces]
        platform = openmm.Platform.getPlatformByName("Reference")
        self._context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)

    def __call__(self, positions_nm: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, list[float]] = {name: [] for name in self.names}
        for frame in positions_nm:
            self._context.setPositions(frame)
            for group, name in enumerate(self.names):
                state = self._context.getState(energy=True, groups={group})
                found[name].append(state.getPotentialEnergy()._value / self._kT_kJ_per_mol)
        return {name: np.array(values) for name, values in found.items()}


def ends(flow, start: float, noise: torch.Tensor, frames: torch.Tensor) -> np.ndarray:
    """Where the flow takes noised frames from the start time on."""
    grid = TimeGrid(STEPS, 1, flow.grid.epsilon)
    s = -np.log((1 - start + grid.epsilon) / (1 + grid.epsilon)) / grid.rate
    steps = torch.linspace(s, 1, max(8, int(STEPS * (1 - s))) + 1, dtype=torch.float64)

    def slope(s, x):
        return flow.field.velocity(grid.time(s), x) * grid.speed(s)

    x = (1 - start) * noise + start * frames
    with torch.no_grad():
        parts = [odeint(slope, chunk, steps, method="rk4")[-1] for chunk in x.split(CHUNK)]
    return torch.cat(parts).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="alanine-dipeptide", help="registered name, or a file")
    parser.add_argument("--frames", type=Path, required=True, help="frames held out")
    parser.add_argument("--n", type=int, default=128)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator, terms = load_model(options.model, alanine_dipeptide(), "cpu"), Terms()
    flow, labels = generator.flow, generator.model.encoding.labels
    screen = TopologyFilter(generator.molecule, labels, density_sees_hand=True)
    frames = FrameRows.load(options.frames).of_target(options.n, np.random.default_rng(0))
    frames -= frames.mean(axis=1, keepdims=True)
    true = terms(frames)
    noise = flow.prior.sample(options.n, torch.Generator().manual_seed(0))
    rows = []
    for start in STARTS:
        screened = screen.screen(ends(flow, start, noise, torch.from_numpy(frames)))
        found = terms(screened.positions_nm[screened.passes])
        total = np.sum(list(found.values()), axis=0)
        rows.append(
            {
                "start": start,
                "valid": float(screened.passes.mean()),
                "energy_quartiles_kT": np.percentile(total, [25, 50, 75]).tolist(),
                "excess_of_medians_kT": {
                    name: float(np.median(found[name]) - np.median(true[name]))
                    for name in terms.names
                },
            }
        )
        print(rows[-1], flush=True)
    quartiles = np.percentile(np.sum(list(true.values()), axis=0), [25, 50, 75]).tolist()
    if options.out:
        record = {"machine": machine(), "model": generator.sha256, "n": options.n, "rows": rows}
        record["energy_quartiles_of_the_frames_kT"] = quartiles
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
