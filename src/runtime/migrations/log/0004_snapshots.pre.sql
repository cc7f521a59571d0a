-- States of long streams as of one of their events: only a cache. Whoever reads one checks that the log has that event;
-- deleting them all changes nothing. `fingerprint` is that of the code that folded the state, `occurred_at` the latest
-- time that led to it. No column that changes is indexed, and the room left in each page keeps new versions in it.
create table log.snapshots (
    stream text collate "C" primary key check (length(stream) <= 120),
    version bigint not null,
    event_id uuid not null,
    fingerprint bytea not null check (length(fingerprint) = 32),
    occurred_at timestamptz not null,
    state bytea not null
) with (fillfactor = 50);
grant select, insert, update on log.snapshots to tallybook_writer, tallybook_policies;
