"""Free energies, averages and profiles, each with its error and what speaks against it."""

from .chains import free_energy_difference_of_chain as free_energy_difference_of_chain
from .chains import independent_rows as independent_rows
from .convergence import Convergence as Convergence
from .convergence import forward_and_reverse as forward_and_reverse
from .estimated import Estimated as Estimated
from .profile import FreeEnergyProfile as FreeEnergyProfile
from .profile import free_energy_profile as free_energy_profile
from .reweighting import average as average
from .reweighting import free_energy_between as free_energy_between
from .reweighting import free_energy_difference as free_energy_difference
from .reweighting import log_normalising_constant as log_normalising_constant
from .states import MultistateFreeEnergies as MultistateFreeEnergies
from .states import multistate as multistate
from .tables import u_nk as u_nk
from .two_ended import bennett as bennett
from .two_ended import bennett_difference as bennett_difference
