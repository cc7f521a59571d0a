-- Read models live in schema `read`. Their tables are made by the projector, which owns them.

create schema read;

-- One build a declaration: the name of its table is `<read model>_<fingerprint>`. `number` tells two lives of one
-- build apart, should its table be dropped and made again. `caught_up`: it has held all of the log once.
create table read.builds (
    build text collate "C" primary key,
    model text not null,
    number bigint not null generated always as identity,
    caught_up boolean not null default false,
    created_at timestamptz not null default now()
);

-- How far each lane of each context that feeds a build has been folded into it.
create table read.checkpoints (
    build text collate "C" not null references read.builds on delete cascade,
    context text collate "C" not null,
    lane smallint not null,
    incarnation uuid not null,
    position bigint not null,
    event_id uuid not null,
    primary key (build, context, lane)
) with (fillfactor = 50);

grant usage, create on schema read to tallybook_projector;
grant usage on schema read to tallybook_reader;
grant select, insert, update, delete on read.builds, read.checkpoints to tallybook_projector;
grant select on read.builds, read.checkpoints to tallybook_reader;
alter default privileges for role tallybook_projector in schema read grant select on tables to tallybook_reader;
