"""Rules as plain data, and in files."""

from qpass.configs.data import rules_from_data as rules_from_data
from qpass.configs.data import rules_to_data as rules_to_data
from qpass.configs.files import load_rules as load_rules
from qpass.configs.files import save_rules as save_rules
