"""The auditor's half of the tally: the log as a persistence module of the library `eventsourcing`.

Nothing here imports `runtime.log`: what reads for auditors shares neither a query nor a fold driver with what
writes and serves, only the codec, so the mistake of one is not repeated by the other. It is the one part of
the house that is synchronous. `PERSISTENCE_MODULE=runtime.audit_log` gives any application of the library a
shop's history; `runtime.audit_log.history` is how our own code reads it, `runtime.audit_log.threaded` how a
door does.
"""

from runtime.audit_log.factory import AuditLogFactory as AuditLogFactory
