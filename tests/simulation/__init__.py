"""The simulator: the real parts on a simulated log, clock, network and disk, killed and cut off at will.

One thread and one ``random.Random(seed)`` decide everything, so that a seed is a history which can be repeated
bit for bit. ``oracle`` says afterwards what should have come of it; ``invariants`` compares:

I1  per partition, events in the log = billed + not billable + duplicates + rejected
I2  what is billed was recorded, and what was recorded and not lost with a power cut is billed; nothing else
I3  counters are what the oracle counts
I4  positions never pass a record that is not in the store, and never go back while a process lives
I5  a cap that is crossed is said in the turn that saw it, and who was told lets nobody through: what is spent
    beyond it is what was let in before the gates were told, which is B(seed)
I6  a gate that was told of a revocation, or is blind for too long, lets nobody through
I7  an invoice that was closed never changes: there are no invoices yet; in its place, a row that was committed
    stays as it was
I8  every decision has one id, is an alert once or more, and reaches the receiver under one id, however bad it is
I9  the store's exports are those of a store that is built anew from the log
I10 when all faults are over everything comes to rest, in so many rounds: no lag, no spool, no alert on its way,
    and nothing is tried for ever
I11 a spool never exceeds its bound
I12 no secret stands in any file or record
I13 a seed that is run again leaves the same trace

A history goes on when an invariant breaks, so that ``planted`` can say of each mistake which invariants find it:
each invariant but I7 has one that no other finds.
"""
