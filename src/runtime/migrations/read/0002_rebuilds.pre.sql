-- A declaration may have several builds: the first is named as it is, one that `tallybook rebuild` makes has a number
-- behind that. One of them is served.

alter table read.builds add column declaration text collate "C" not null
    generated always as (left(build, length(model) + 13)) stored;  -- `_` and the 12 digits of the fingerprint
alter table read.builds add column served boolean not null default false;
update read.builds set served = true where caught_up;
create unique index on read.builds (declaration) where served;
