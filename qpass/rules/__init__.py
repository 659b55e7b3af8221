"""Rules: which contractions of a program are quantized, how, and which stay as they are."""

from qpass.rules.checking import Findings as Findings
from qpass.rules.checking import check_matching as check_matching
from qpass.rules.matching import Matching as Matching
from qpass.rules.matching import as_rules as as_rules
from qpass.rules.matching import match_rules as match_rules
from qpass.rules.rule import Rule as Rule
from qpass.rules.selectors import SiteLike as SiteLike
