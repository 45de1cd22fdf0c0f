"""Is linear memory enough for this model? ``analyse(model)`` answers with reasons and numbers.

Source: Y. Zhao, O. Eberhard, M. Khammassi, A. H. Sayed, M. Muehlebach, "Why Linear Recurrent Memory Works in
Partially Observable Reinforcement Learning", ICML 2026, arXiv:2605.31261: Corollaries 4.3, 4.5, Theorem 4.4,
Definition 5.1, Assumptions 5.3, 5.6 and 5.8, Theorems 5.7 and 5.9.

    backbone.py      transition = D + eps Q: the deterministic part, its cycles, what is left
    assumptions.py   what the theorems ask of the emissions, and the witness where it fails
    exponent.py      the exponent xi and the constant alpha, by quadrature
    analysis.py      all of it together, and the filter to use

Departures are listed in analysis.py.
"""

from .analysis import Analysis, Certificate, Recommendation, Transition, analyse
from .assumptions import Assumption
from .backbone import Backbone

__all__ = ["Analysis", "Assumption", "Backbone", "Certificate", "Recommendation", "Transition", "analyse"]
