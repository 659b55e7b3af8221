"""Passes: small pure functions from Plan to Plan, run in the order of `PASSES`."""

from qpass.passes.adapt import adapt as adapt
from qpass.passes.backward import backward as backward
from qpass.passes.cache import cache as cache
from qpass.passes.epilogue import FuseEpilogues as FuseEpilogues
from qpass.passes.epilogue import epilogue as epilogue
from qpass.passes.join import join as join
from qpass.passes.match import match as match
from qpass.passes.refuse import refuse as refuse
from qpass.passes.route import route as route
from qpass.passes.sparsify import sparsify as sparsify
from qpass.passes.store import store as store

PASSES = (match, refuse, route, backward, store, sparsify, adapt, epilogue, join, cache)
