-- An event that a fold refuses parks its stream: the rows keep what the events before it made, the lane goes on.

-- `parked`: how many streams of the lane are. It stands here because a worker that waited for this row sees it as the
-- row is then, while a look into another table would be as old as its statement. `skipped_upto`: the highest position
-- of the lane's events that are skipped.
alter table read.checkpoints add column parked integer not null default 0 check (parked >= 0);
alter table read.checkpoints add column skipped_upto bigint not null default 0;

-- The first event of each parked stream that is not folded. `tries`: how often it was refused.
create table read.parked (
    build text collate "C" not null,
    context text collate "C" not null,
    lane smallint not null,
    stream text collate "C" not null,
    position bigint not null,
    version bigint not null,
    event_id uuid not null,
    type text not null,
    error text not null,
    tries integer not null default 1,
    parked_at timestamptz not null default now(),
    primary key (build, context, lane, stream),
    foreign key (build, context, lane) references read.checkpoints on delete cascade
);

-- Events that the folds of a declaration leave out for ever, by whose word and why. It outlives the builds.
create table read.skipped (
    declaration text collate "C" not null,
    event_id uuid not null,
    context text collate "C" not null,
    lane smallint not null,
    stream text collate "C" not null,
    position bigint not null,
    reason text not null check (length(reason) between 1 and 1000),
    skipped_by text not null,
    skipped_at timestamptz not null default now(),
    primary key (declaration, event_id)
);

grant select, insert, update, delete on read.parked to tallybook_projector;
grant select, insert on read.skipped to tallybook_projector;
grant select on read.parked, read.skipped to tallybook_reader;
