-- The log: every event there ever was, gap-free, in commit order. `log.append` is the only way in.

create schema log;
create schema relay;
create schema policies;

-- One row. The number of lanes is part of every partition's history and never changes.
create table log.settings (
    one boolean primary key default true check (one),
    lanes smallint not null check (lanes between 1 and 1024)
);

-- A history that went its own way: a restore or a failover may use positions again. `timeline` is PostgreSQL's.
create table log.incarnations (
    id uuid primary key,
    timeline integer not null unique,
    from_position bigint not null
);

-- `data` and `metadata` are the exact bytes that were written; the schema version is in `type` only.
create table log.events (
    position bigint primary key,
    stream text collate "C" not null check (length(stream) <= 120),
    version bigint not null,
    event_id uuid not null unique,
    type text collate "C" not null,
    context text collate "C" not null check (
        context in (
            'catalogue', 'inventory', 'orders', 'accounts', 'pricing', 'payments', 'shipping', 'audit'
        )
    ),
    lane smallint not null,
    data bytea not null,
    metadata bytea not null,
    recorded_at timestamptz not null,
    unique (stream, version)
);
create index events_by_lane on log.events (context, lane, position);

create view log.readable as
select
    position, stream, version, event_id, type, context, lane,
    convert_from(data, 'UTF8')::jsonb as data,
    convert_from(metadata, 'UTF8')::jsonb as metadata,
    recorded_at
from log.events;

-- What a request did: `count` events from `first_position`. Kept for ever.
create table log.requests (
    digest bytea primary key check (length(digest) = 16),
    fingerprint bytea not null check (length(fingerprint) = 32),
    first_position bigint not null,
    count integer not null
);

-- A writer whose connection broke begins a new generation; what its old session still sends is refused.
create table log.writers (
    writer uuid primary key,
    generation bigint not null
);

-- How far the relay has published.
create table relay.checkpoint (
    name text collate "C" primary key,
    incarnation uuid not null,
    position bigint not null,
    event_id uuid not null
) with (fillfactor = 50);

-- How far each policy has read, and the timers its events have set (`event_id`: the event that set it).
create table policies.checkpoint (
    policy text collate "C" primary key,
    incarnation uuid not null,
    position bigint not null,
    event_id uuid not null
) with (fillfactor = 50);
create table policies.timers (
    policy text collate "C" not null,
    stream text collate "C" not null,
    due_at timestamptz not null,
    event_id uuid not null,
    primary key (policy, stream)
);
create index timers_by_due_at on policies.timers (policy, due_at);

-- The first 8 bytes of the name's SHA-256 as an unsigned number, modulo the lanes. Flipping the sign bit of the
-- signed number subtracts 2^63, which the last terms add again, modulo the lanes; so it is hashed only once. Stable, as convert_to is: else it is not inlined.
create function log.lane_of(stream text, lanes integer) returns smallint
language sql stable parallel safe
return (
    (
        (
            ('x' || encode(substr(sha256(convert_to(stream, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint
            # (-9223372036854775808)
        ) % lanes + lanes + 9223372036854775807 % lanes + 1
    ) % lanes
)::smallint;

grant usage on schema log to
    tallybook_writer, tallybook_reader, tallybook_relay, tallybook_projector, tallybook_policies;
grant select on all tables in schema log to
    tallybook_writer, tallybook_reader, tallybook_relay, tallybook_projector, tallybook_policies;
grant usage on schema relay to tallybook_relay;
grant select, insert, update, delete on all tables in schema relay to tallybook_relay;
grant usage on schema policies to tallybook_policies;
grant select, insert, update, delete on all tables in schema policies to tallybook_policies;

insert into log.settings (lanes) values (coalesce(nullif(current_setting('tallybook.lanes', true), ''), '8')::smallint);
insert into log.incarnations (id, timeline, from_position)
values (gen_random_uuid(), ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer, 1);
