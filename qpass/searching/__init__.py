"""Which bits to spend where: schemes under a budget, from what each costs on data."""

from qpass.searching.budget import Budget as Budget
from qpass.searching.measured import Sensitivity as Sensitivity
from qpass.searching.measured import sensitivity as sensitivity
from qpass.searching.searched import Search as Search
from qpass.searching.searched import search as search
