"""Run by `test_training`: a short training, whose weights and loss go to a file."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from miniatures import CHIRAL, SETTINGS, task_of

from openmm_tbg.training import Trainer

if __name__ == "__main__":
    folder, n_steps = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    trainer = Trainer(
        [task_of(CHIRAL, 30, 10)], SETTINGS, folder / "run.pt", accelerator=accelerator
    )
    for _ in range(n_steps):
        trainer._advance()
    state = {"weights": trainer.fields.state_dict(), "n": accelerator.num_processes}
    torch.save(state, folder / f"rank{accelerator.process_index}.pt")
