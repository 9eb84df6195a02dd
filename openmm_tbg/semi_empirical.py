"""Semi-empirical targets: the energy of extended tight binding as an OpenMM System."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import openmm
from jaxtyping import Float64
from openmm import app, unit

NM_PER_BOHR = 0.0529177210903  # CODATA 2018
KJ_PER_MOL_PER_HARTREE = 2625.4996394799


@dataclass(frozen=True)
class TightBinding:
    """GFN2-xTB energy and forces of one molecule, in the form that `openmm.PythonForce` asks for.

    Every call starts anew, so that an energy depends on the positions alone, and threads share
    nothing.

    Args:
        atomic_numbers: Of all atoms, in the order of the positions.
        charge: Of the molecule, in units of e.
        solvent: Name of an implicit solvent of ALPB; None stands for vacuum.
    """

    atomic_numbers: tuple[int, ...]
    charge: int
    solvent: str | None

    def __call__(self, state: openmm.State) -> tuple[float, Float64[np.ndarray, "atoms 3"]]:
        """Energy in kJ/mol and forces in kJ/mol/nm; an exception where there is no solution."""
        from tblite.interface import Calculator

        positions_nm = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        calculator = Calculator(
            "GFN2-xTB", np.array(self.atomic_numbers), positions_nm / NM_PER_BOHR, self.charge
        )
        calculator.set("verbosity", 0)
        if self.solvent is not None:
            calculator.add("alpb-solvation", self.solvent)
        found = calculator.singlepoint()
        forces = -found.get("gradient") * (KJ_PER_MOL_PER_HARTREE / NM_PER_BOHR)
        return float(found.get("energy")) * KJ_PER_MOL_PER_HARTREE, forces


def gfn2_xtb_system(
    topology: app.Topology, charge: int, solvent: str | None = None
) -> openmm.System:
    """A molecule in GFN2-xTB, closed shell, as a target like any other; it takes OpenMM 8.5.

    Energies count from free electrons and nuclei: -86,500 kJ/mol for alanine dipeptide. They come
    from tblite (the extra `xtb`) and are converged to about 1e-3 kT at 300 K. A configuration
    without a solution has no energy: it is NaN in a `ReducedPotential`, so that its weight is zero.

    Args:
        topology: Atoms, in the order of the positions; its bonds play no part.
        charge: Of the molecule, in units of e.
        solvent: Implicit solvent by the ALPB model, such as "water"; None stands for vacuum.

    Raises:
        ImportError: tblite is not installed.
        ValueError: The number of electrons is odd.

    Reference:
        Bannwarth, Ehlert & Grimme, J. Chem. Theory Comput. 15 (2019) 1652; ALPB: Ehlert et al.,
        J. Chem. Theory Comput. 17 (2021) 4250; through tblite.

    Example:
        >>> topology = app.Topology()
        >>> residue = topology.addResidue("HOH", topology.addChain())
        >>> for name, symbol in {"O": "O", "H1": "H", "H2": "H"}.items():
        ...     _ = topology.addAtom(name, app.Element.getBySymbol(symbol), residue)
        >>> system = gfn2_xtb_system(topology, charge=0)
        >>> context = openmm.Context(system, openmm.VerletIntegrator(0.001))
        >>> context.setPositions([[0.0, 0.0, 0.0], [0.0957, 0.0, 0.0], [-0.024, 0.0927, 0.0]])
        >>> round(context.getState(energy=True).getPotentialEnergy()._value)
        -13312
    """
    try:
        import tblite.interface  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "GFN2-xTB needs tblite: pip install 'openmm-tbg[xtb]', or conda install tblite-python"
        ) from error
    elements = [atom.element for atom in topology.atoms()]
    electrons = sum(element.atomic_number for element in elements) - charge
    if electrons % 2:
        raise ValueError(
            f"charge is {charge}, which leaves {electrons} electrons, one of them unpaired: give "
            "the charge of the whole molecule, protonated groups included"
        )
    system = openmm.System()
    for element in elements:
        system.addParticle(element.mass)
    numbers = tuple(element.atomic_number for element in elements)
    system.addForce(openmm.PythonForce(TightBinding(numbers, charge, solvent)))
    return system
