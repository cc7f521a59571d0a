-- Which relay leads, and until when by this server's clock, unless it says so again. One row.
create table relay.lease (
    one boolean primary key default true check (one),
    holder uuid not null,
    until timestamptz not null
) with (fillfactor = 50);

grant select, insert, update on relay.lease to tallybook_relay;
