"""Packed molecules feel what they feel alone, and are stored like walkers of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import pytest
from assertions import assert_mean
from openmm import app
from peptides import peptide
from structures import Alanine, Structure
from toys import KT, backbone, diatomic

from openmm_tbg.arrays import Frame
from openmm_tbg.frames import FrameStore
from openmm_tbg.reference import ReferenceSystem, alanine_dipeptide
from openmm_tbg.simulation import Dynamics, RamachandranBias, packing, simulate_packed, trajectory
from openmm_tbg.simulation.packing import PackedSystem, pack
from openmm_tbg.torsions import dihedral

BIAS = RamachandranBias((4, 6, 8, 14, 16), np.random.default_rng(4).normal(0, 3, (12, 12)))
CHAIN = (0, 1, 2, 3, 4)
SHORT = Dynamics(interval_ps=0.02, equilibration_ps=0.1)
Molecule = tuple[openmm.System, Frame]


def evaluate(system: openmm.System, positions_nm: Frame) -> tuple[float, np.ndarray]:
    """Energy in kJ/mol and forces of the target alone."""
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions_nm)
    state = context.getState(energy=True, forces=True, groups=trajectory.TARGET_GROUPS)
    return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


def parametrised(structure: Structure, *force_field: str) -> Molecule:
    system = app.ForceField(*force_field).createSystem(
        structure.topology, nonbondedMethod=app.NoCutoff
    )
    return system, structure.positions_nm


def obc_with_bias() -> list[Molecule]:
    """amber99sbildn with GBSAOBCForce: two capped ones, one of them biased, and an uncapped one."""
    force_field = ("amber99sbildn.xml", "amber99_obc.xml")
    alone, positions_nm = parametrised(Alanine.build(), *force_field)
    biased, _ = parametrised(Alanine.build(), *force_field)
    biased.addForce(BIAS.force(300.0))
    uncapped = parametrised(peptide("AAA"), *force_field)
    return [(biased, positions_nm), uncapped, (alone, positions_nm), (biased, positions_nm)]


def cmap_with_custom_gb() -> list[Molecule]:
    """ff19SB, with a CMAP of its own for alanine and glycine, and obc2 as a CustomGBForce."""
    force_field = ("amber19-all.xml", "implicit/obc2.xml")
    structures = [peptide("AAA"), Alanine.build(), peptide("AGA")]
    return [parametrised(structure, *force_field) for structure in structures]


def perturbed(molecules: list[Molecule]) -> list[Frame]:
    rng = np.random.default_rng(5)
    return [frame + rng.normal(0, 0.005, frame.shape) for _, frame in molecules]


def assert_like_alone(molecules: list[Molecule], packed: PackedSystem) -> None:
    frames = perturbed(molecules)
    alone = [evaluate(system, x) for (system, _), x in zip(molecules, frames, strict=True)]
    energy, forces = evaluate(packed.system, packed.place(frames))
    expected = np.concatenate([force for _, force in alone])
    np.testing.assert_allclose(forces, expected, atol=1e-6 * np.abs(expected).max())
    own = sum(energy for energy, _ in alone)
    assert energy == pytest.approx(own + packed.energy_shift_kJ.sum(), abs=1e-4)


both = pytest.mark.parametrize("build", [obc_with_bias, cmap_with_custom_gb])


@both
def test_packed_molecules_feel_what_they_feel_alone(build: Callable[[], list[Molecule]]) -> None:
    molecules = build()
    packed = pack([system for system, _ in molecules])
    assert np.abs(packed.energy_shift_kJ).min() > 1
    assert_like_alone(molecules, packed)


@both
@pytest.mark.parametrize("bug", ["cutoff", "spacing", "offset"])
def test_the_comparison_sees_planted_bugs(
    build: Callable[[], list[Molecule]], bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    molecules = build()
    if bug == "cutoff":  # cuts inside a molecule
        monkeypatch.setattr(packing, "SHORTEST_CUTOFF_NM", 0.6)
        monkeypatch.setattr(packing, "STRETCH", 0.3)
    packed = pack([system for system, _ in molecules])
    if bug == "spacing":  # molecules see each other
        packed = dataclasses.replace(packed, origins_nm=packed.origins_nm / 4)
    if bug == "offset":
        shift = packed.energy_shift_kJ * 1.001
        packed = dataclasses.replace(packed, energy_shift_kJ=shift)
    with pytest.raises(AssertionError):
        assert_like_alone(molecules, packed)


def test_equal_forces_are_merged() -> None:
    packed = pack([system for system, _ in obc_with_bias()])
    kinds = [type(force).__name__ for force in packed.system.getForces()]
    assert len(kinds) == len(set(kinds)) == 7
    compound = next(f for f in packed.system.getForces() if "Compound" in type(f).__name__)
    assert compound.getNumBonds() == 2


def test_the_map_of_each_molecule_is_there() -> None:
    packed = pack([system for system, _ in cmap_with_custom_gb()])
    maps = next(f for f in packed.system.getForces() if isinstance(f, openmm.CMAPTorsionForce))
    assert maps.getNumTorsions() == 3


def test_maps_are_not_mixed_up() -> None:
    molecules = []
    for seed in (1, 2, 3):
        maps = openmm.CMAPTorsionForce()
        for table in np.random.default_rng(seed).normal(0, 10, (2, 36)):
            maps.addMap(6, table)
        maps.addTorsion(seed % 2, 0, 1, 2, 3, 1, 2, 3, 4)
        molecules.append((with_force(maps), backbone().positions_nm))
    assert_like_alone(molecules, pack([system for system, _ in molecules]))


def test_the_grid_keeps_molecules_apart() -> None:
    packed = pack([backbone().system] * 9)
    apart = np.linalg.norm(packed.origins_nm[:, None] - packed.origins_nm[None], axis=-1)
    assert apart[~np.eye(9, dtype=bool)].min() > packed.cutoff_nm + 2 * packing.RESTRAINT_REACH_NM
    np.testing.assert_array_equal(packed.first_atoms, 5 * np.arange(9))
    placed = packed.place([backbone().positions_nm] * 9)
    np.testing.assert_allclose(placed[2::5], packed.origins_nm)  # the middle atom is the anchor


def with_force(force: openmm.Force) -> openmm.System:
    system = backbone().system
    system.addForce(force)
    return system


def with_constraint() -> openmm.System:
    system = backbone().system
    system.addConstraint(0, 1, 0.1)
    return system


def with_cutoff() -> openmm.System:
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffNonPeriodic)
    return with_force(force)


def without_bond() -> openmm.System:
    system = backbone().system
    system.addParticle(1.0)
    return system


@pytest.mark.parametrize(
    ("systems", "message"),
    [
        ([], "systems is empty"),
        ([with_force(openmm.RBTorsionForce())], "system 0 has a RBTorsionForce"),
        ([backbone().system, with_constraint()], "system 1 has constraints.*constraints=None"),
        ([with_cutoff()], "NonbondedForce of system 0 has a cutoff: create it with NoCutoff"),
        ([without_bond()], "do not connect all atoms"),
        (
            [with_force(openmm.NonbondedForce()), backbone().system],
            "1 of 2 systems lack a NonbondedForce",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused(systems: list[openmm.System], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(systems)


def test_tables_that_differ_are_refused() -> None:
    force_field = ("amber14-all.xml", "implicit/gbn2.xml")
    with pytest.raises(ValueError, match=r"CustomGBForce of the form.*one force field"):
        pack([parametrised(peptide(name), *force_field)[0] for name in ("AAA", "CM")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchors": [5]}, "anchor 5 of system 0: it has 5 atoms"),
        ({"spacing_nm": 2.0}, r"spacing_nm is 2\.0: these molecules need 4\."),
    ],
)
def test_a_grid_that_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack([backbone().system], **change)


def has_cuda() -> bool:
    platforms = map(openmm.Platform.getPlatform, range(openmm.Platform.getNumPlatforms()))
    return "CUDA" in {platform.getName() for platform in platforms}


@pytest.fixture
def references() -> dict[str, ReferenceSystem]:
    return {"free": backbone(), "hindered": backbone(1.5)}


def test_walkers_of_all_molecules_are_thermal(
    references: dict[str, ReferenceSystem], tmp_path: Path
) -> None:
    angles = np.linspace(-np.pi, np.pi, 24, endpoint=False)
    bias = RamachandranBias(CHAIN, np.cos(angles)[:, None] + np.zeros(24))
    dynamics = Dynamics(interval_ps=0.2, friction_per_ps=5.0, equilibration_ps=2.0)
    frames = simulate_packed(
        references, tmp_path, dynamics=dynamics, n_frames=3000, n_walkers=2, seed=6,
        biases={"free": bias}, platform="Reference",
    )  # fmt: skip
    for name, height in (("free", 1.0), ("hindered", 1.5)):
        cos_phi = np.cos(dihedral(frames[name].positions_nm.astype(float), CHAIN[:4]))
        density = np.exp(-height * np.cos(angles))
        assert_mean(cos_phi, (density * np.cos(angles)).sum() / density.sum())
        np.testing.assert_allclose(frames[name].positions_nm.mean(axis=1), 0, atol=1e-7)
    assert np.ptp(frames["free"].bias_kT) > 1.9
    assert not frames["hindered"].bias_kT.any()


def test_stored_forces_are_those_of_each_molecule_alone(
    references: dict[str, ReferenceSystem], tmp_path: Path
) -> None:
    frames = simulate_packed(
        references, tmp_path, dynamics=SHORT, n_frames=6, n_walkers=3, seed=6, platform="Reference"
    )
    for name, reference in references.items():
        assert frames[name].forces_per_nm is not None
        assert len(np.unique(frames[name].positions_nm[:, 0, 0])) == 6
        for x, force in zip(frames[name].positions_nm, frames[name].forces_per_nm, strict=True):
            expected = evaluate(reference.system, x.astype(float))[1] / KT
            np.testing.assert_allclose(force, expected, atol=0.01)


def test_copies_take_the_starts_in_turn(tmp_path: Path) -> None:
    frozen = Dynamics(interval_ps=1e-9, timestep_fs=1e-6, equilibration_ps=0.0)
    frames = simulate_packed(
        {"bond": diatomic(), "chain": backbone()}, tmp_path, dynamics=frozen, n_frames=3,
        n_walkers=3, seed=6, platform="Reference",
    )  # fmt: skip
    lengths = np.linalg.norm(np.diff(frames["bond"].positions_nm, axis=1)[:, 0], axis=1)
    np.testing.assert_allclose(lengths, [0.11, 0.12, 0.11], atol=1e-6)
    start = backbone().positions_nm - backbone().positions_nm.mean(axis=0)
    np.testing.assert_allclose(frames["chain"].positions_nm, [start] * 3, atol=1e-6)
    assert frames["bond"].metadata["packed_with"] == ["bond", "chain"]


@pytest.mark.gpu
@pytest.mark.skipif(not has_cuda(), reason="OpenMM finds no CUDA platform")
def test_cuda_stores_the_forces_of_each_molecule(tmp_path: Path) -> None:
    reference = alanine_dipeptide()
    frames = simulate_packed(
        {"one": reference, "other": reference}, tmp_path, dynamics=SHORT, n_frames=8, n_walkers=4,
        seed=6, biases={"other": BIAS},
    )  # fmt: skip
    for name in ("one", "other"):
        assert frames[name].forces_per_nm is not None
        for x, force in zip(frames[name].positions_nm, frames[name].forces_per_nm, strict=True):
            expected = evaluate(reference.system, x.astype(float))[1] / KT
            np.testing.assert_allclose(force, expected, atol=2e-3 * np.abs(expected).max())


def test_a_stop_leaves_no_trace(
    references: dict[str, ReferenceSystem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> np.ndarray:
        frames = simulate_packed(
            references, tmp_path / name, dynamics=SHORT, n_frames=16, n_walkers=2, seed=6,
            platform="Reference",
        )  # fmt: skip
        return np.concatenate([frames[name].positions_nm for name in references])

    whole = run("whole")
    monkeypatch.setattr(trajectory, "FRAMES_PER_CHUNK", 3)
    with monkeypatch.context() as patch:
        patch.setattr(trajectory, "write_atomically", stop_after(2))
        with pytest.raises(KeyboardInterrupt):
            run("cut")
    np.testing.assert_array_equal(FrameStore(tmp_path / "cut" / "free").n_done, [6, 6])
    np.testing.assert_array_equal(run("cut"), whole)


def stop_after(n: int) -> Callable[[Path, bytes], None]:
    left = iter(range(n))

    def write(path: Path, content: bytes) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        path.write_bytes(content)

    return write


def test_requests_that_cannot_be_are_refused(
    references: dict[str, ReferenceSystem], tmp_path: Path
) -> None:
    settings = {"dynamics": SHORT, "n_frames": 4, "n_walkers": 2, "seed": 1}
    with pytest.raises(ValueError, match=r"platform is Abacus, but OpenMM finds \['Reference'"):
        simulate_packed(references, tmp_path, **settings, platform="Abacus")
    settings["platform"] = "Reference"
    with pytest.raises(ValueError, match=r"biases has \['other'\], which references lacks"):
        simulate_packed(references, tmp_path, **settings, biases={"other": BIAS})
    with pytest.raises(ValueError, match="references is empty"):
        simulate_packed({}, tmp_path, **settings)
    hot = {"hot": dataclasses.replace(backbone(), temperature_K=400.0)}
    with pytest.raises(ValueError, match=r"temperatures \[300\.0, 400\.0\] K"):
        simulate_packed(references | hot, tmp_path, **settings)
