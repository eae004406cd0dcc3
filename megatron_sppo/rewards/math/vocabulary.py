"""The words of the grammar: commands and names, and the one spelling under which the parser knows each."""

from __future__ import annotations

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth arcsinh arccosh arctanh "
    "log ln lg exp gcd lcm max min abs floor ceil sqrt cbrt".split()
)
GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron rho sigma tau upsilon phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split()
)
CONSTANTS = {"pi": "pi", "infty": "infinity", "infin": "infinity", "e": "e", "i": "i"}
SYNONYMS = {
    "varepsilon": "epsilon", "vartheta": "theta", "varphi": "phi", "varrho": "rho", "varsigma": "sigma", "varpi": "pi",
    "arsinh": "arcsinh", "arcosh": "arccosh", "artanh": "arctanh", "tg": "tan", "ctg": "cot", "arctg": "arctan",
    "imath": "i",
    "hbar": "hbar", "ell": "ell", "partial": "partial", "nabla": "nabla", "odot": "odot", "fourthroot": "fourthroot",
    "Pr": "Pr", "prime": "prime", "star": "star", "bot": "bot", "Re": "Re", "Im": "Im",
}  # fmt: skip
NAMES = {name: name for name in FUNCTIONS | GREEK} | CONSTANTS | SYNONYMS  # after a backslash
PLAIN_NAMES = (  # without one
    {name: name for name in (FUNCTIONS - {"gcd", "lcm"}) | (GREEK - {"nu", "mu", "xi", "Xi", "Pi"})}
    | {"pi": "pi", "Pi": "pi", "PI": "pi", "infinity": "infinity", "Infinity": "infinity", "inf": "infinity", "oo": "infinity"}
    | {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "tg": "tan", "ctg": "cot", "arctg": "arctan"}
    | {"ceiling": "ceil", "infty": "infinity", "Pr": "Pr"}
)
MULTIPLIER_WORDS = frozenset({"hundred", "thousand", "million", "billion", "trillion"})

SPACING = frozenset({",", ";", ":", ">", " ", "\n", "quad", "qquad", "thinspace", "enspace", "medspace", "space"})
DECORATION = frozenset(
    "! ( ) [ ] left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr middle underline limits nolimits "
    "displaystyle textstyle scriptstyle mathstrut bf rm it sf bm hline fbox mathop checkmark "
    "tiny small normalsize large Large LARGE huge Huge".split()
)
TEXT_COMMANDS = frozenset("text textbf textit textrm textsf texttt textnormal mbox hbox textup emph textsc".split())
UPRIGHT_COMMANDS = frozenset("mathrm mathbf mathit mathsf operatorname operatorname* mathcal boldsymbol mathnormal bm".split())
CURRENCIES = {"$": "USD", "EUR": "EUR", "euro": "EUR", "GBP": "GBP", "pounds": "GBP", "JPY": "JPY", "yen": "JPY"}
ENVIRONMENT_COMMANDS = frozenset({"begin", "end", "mathbb"})

OPERATORS = {
    "**": "^", "<=": "<=", "=<": "<=", ">=": ">=", "=>": "=>", "!=": "!=", "==": "=", ";": ",",
}  # fmt: skip
COMMAND_OPERATORS = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "pm": "+-", "mp": "-+", "le": "<=", "leq": "<=", "leqslant": "<=",
    "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">", "ne": "!=", "neq": "!=", "approx": "~", "simeq": "~",
    "in": "in", "cup": "union", "bigcup": "union", "cap": "cap", "setminus": "setminus", "backslash": "setminus",
    "emptyset": "emptyset", "varnothing": "emptyset", "lor": "or", "vee": "or", "land": "and", "wedge": "and",
    "{": "{set", "}": "set}", "lbrace": "{set", "rbrace": "set}", "lparen": "(", "rparen": ")", "lbrack": "[", "rbrack": "]",
    "langle": "<(", "rangle": ")>", "vert": "|", "lvert": "|", "rvert": "|", "mid": "|", "|": "||",
    "lfloor": "lfloor", "rfloor": "rfloor", "lceil": "lceil", "rceil": "rceil",
    "frac": "frac", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "nicefrac": "frac", "sfrac": "frac",
    "over": "over", "choose": "choose", "binom": "binom", "dbinom": "binom", "tbinom": "binom",
    "sqrt": "sqrt", "surd": "sqrt", "cbrt": "cbrt", "%": "%", "\\": "\\\\", "_": "_", "&": "&", "equiv": "=", "colon": ":",
    "overline": "overline", "bar": "overline", "dot": "dot", "ddot": "ddot", "hat": "hat", "vec": "vec", "tilde": "tilde",
    "widehat": "hat", "overrightarrow": "vec", "degree": "degrees",
}  # fmt: skip
