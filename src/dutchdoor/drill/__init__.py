"""Hold two models side by side on the same questions: `compare`.

Takes two addresses (a folder, a GGUF, a bundle, a member of a family, a URL), asks both the same, and hands
back one report: paired quality with its interval, speed, cost, licences, and the routes file that makes
swapping one word.

Refuses to guess: an infrastructure failure is missing and never a wrong answer, an unknown price is unknown
and never 0, and without cases there is no verdict on quality. Replay of recorded traffic and contract checks
will live here.
"""
