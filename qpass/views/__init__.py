"""What people and programs see of a plan or a comparison: pure functions from rows to text."""

from qpass.views.comparison import SiteError as SiteError
from qpass.views.comparison import errors_from_json as errors_from_json
from qpass.views.comparison import errors_table as errors_table
from qpass.views.comparison import errors_to_html as errors_to_html
from qpass.views.comparison import errors_to_json as errors_to_json
from qpass.views.comparison import worst_first as worst_first
from qpass.views.dot import to_dot as to_dot
from qpass.views.explanation import Explanation as Explanation
from qpass.views.html import to_html as to_html
from qpass.views.json_view import from_json as from_json
from qpass.views.json_view import to_json as to_json
from qpass.views.row import Row as Row
from qpass.views.summary import Summary as Summary
from qpass.views.summary import summarize as summarize
from qpass.views.table import to_table as to_table
from qpass.views.text import to_text as to_text
