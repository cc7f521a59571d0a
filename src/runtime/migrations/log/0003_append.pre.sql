-- The only way in, anew: the same three statements a batch (fetch, decide, insert), with less to do in each; and
-- conditions on what events match, as the Dynamic Consistency Boundary specification (dcb.events) has them.

drop function log.append;
drop function log.fits;

-- What an append has to know of a stream's last event stands in the index: in a large log an old event's page is a
-- read from the disk, and the index page is needed anyway. It is of use once vacuum has seen the event's page.
create unique index events_by_stream on log.events (stream, version) include (event_id, context, lane);
alter table log.events
    drop constraint events_stream_version_key,
    add constraint events_by_stream unique using index events_by_stream,
    set (autovacuum_vacuum_insert_threshold = 100000, autovacuum_vacuum_insert_scale_factor = 0.01);

-- What conditions and queries find events by. The type is repeated so that no look-up needs the event.
create table log.tags (
    tag text collate "C" not null check (length(tag) between 1 and 120),
    position bigint not null,
    type text collate "C" not null,
    primary key (tag, position) include (type)
);
grant select on log.tags to
    tallybook_writer, tallybook_reader, tallybook_relay, tallybook_projector, tallybook_policies;

-- The first positions after one, up to another, of events that match an item: of any of the types (none: of any type),
-- with all of the tags. Without a tag, the log itself is read along.
create function log.positions_of(types text[], tags text[], after_position bigint, upto bigint, at_most bigint)
returns setof bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
declare
    rarest text;
begin
    if cardinality(tags) = 0 then
        return query
        select e.position from log.events e
        where e.position > after_position and e.position <= upto
            and (cardinality(types) = 0 or e.type = any (types))
        order by e.position
        limit at_most;
    else
        -- The tag to go along is that which the fewest events have, as far as a look at a thousand tells.
        select u.tag into rarest from unnest(tags) as u (tag)
        order by (
            select count(*) from (
                select from log.tags t
                where t.tag = u.tag collate "C" and t.position > after_position and t.position <= upto
                limit 1000) as first)
        limit 1;
        return query
        select t.position from log.tags t
        where t.tag = rarest collate "C" and t.position > after_position and t.position <= upto
            and (cardinality(types) = 0 or t.type = any (types))
            and not exists (
                select from unnest(tags) as u (tag)
                where u.tag <> rarest
                    and not exists (select from log.tags o where o.tag = u.tag collate "C" and o.position = t.position)
            )
        order by t.position
        limit at_most;
    end if;
end
$$;

-- A batch of appends, dictionary-encoded. Streams: name, context and lane of each distinct one. Appends: how many
-- tips and events each has, its request's digest and fingerprint (null where nothing can repeat). Tips: the number of
-- the stream, and the version and event id that its last event must have (0 and the nil id: none). Events: the number
-- of the stream, which is one of its append's tips. Tags: the number of the event. Conditions, null where no append
-- has any: `[{"append", "after", "types", "tags"}]`, one for each item of a query. Numbers count from 1.
--
-- Verdicts, one an append: 1 appended, at the positions that follow those of the appends before it, the first of the
-- batch at `head + 1`; 2 conflict; 3 duplicate of the `counts` events from `firsts`; 4 mismatch: the digest is bound
-- to another fingerprint. `firsts` and `counts` are null where there is no repeat. An append of no events (a
-- refusal) is judged in the same way and writes nothing.
--
-- A condition without tags has to read the log along: if it would be more than 10,000 events, that is a conflict too,
-- and whoever decides again has read them. So is a position that the log has not reached: it is of a lost history.
--
-- What makes holes, or pairs one thing with another, is refused here (TB003). That a new stream's context is the one
-- of its category, and that an append has a tip for each stream it writes, is left to the caller.
create function log.append(
    in_writer uuid, in_generation bigint,
    in_streams text[], in_contexts text[], in_lanes smallint[],
    in_tip_counts integer[], in_event_counts integer[], in_digests bytea[], in_fingerprints bytea[],
    in_tip_streams integer[], in_tip_versions bigint[], in_tip_ids uuid[],
    in_event_streams integer[], in_event_ids uuid[], in_event_types text[],
    in_event_data bytea[], in_event_metadata bytea[],
    in_tag_events integer[], in_tags text[], in_conditions jsonb,
    out verdicts smallint[], out head bigint, out at timestamptz, out firsts bigint[], out counts integer[]
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
declare
    streams constant integer := cardinality(in_streams);
    appends constant integer := cardinality(in_tip_counts);
    tips constant integer := cardinality(in_tip_streams);
    events constant integer := cardinality(in_event_ids);
    -- Copies: an array that is a variable is taken apart once, a parameter at every look.
    names text[] := in_streams;
    contexts text[] := in_contexts;
    current_versions bigint[];
    current_ids uuid[];
    versions bigint[];
    ids uuid[];
    begins bigint[];
    positions bigint[];
    new_versions bigint[];
    position bigint;
    inserted integer;
    same boolean[];
    tip_at integer;
    event_at integer;
    verdict smallint;
    s integer;
    bad boolean;
begin
    perform pg_advisory_xact_lock(2047, 1);
    -- From here on every statement has a snapshot taken after the lock: it sees all that was committed before.

    perform from log.writers w where w.writer = in_writer and w.generation = in_generation;
    if not found then
        raise exception using errcode = 'TB001', message = 'another generation of this writer has begun';
    end if;

    if not coalesce(
        appends between 1 and 4096 and streams <= 65536 and tips <= 65536 and events <= 65536
        and 1 = all (array_remove(array[
            array_lower(in_streams, 1), array_lower(in_contexts, 1), array_lower(in_lanes, 1),
            array_lower(in_tip_counts, 1), array_lower(in_event_counts, 1), array_lower(in_tip_streams, 1),
            array_lower(in_tip_versions, 1), array_lower(in_tip_ids, 1), array_lower(in_event_streams, 1),
            array_lower(in_event_ids, 1)], null))
        and array_ndims(in_tip_counts) = 1
        and cardinality(in_event_counts) = appends and cardinality(in_digests) = appends
        and cardinality(in_fingerprints) = appends
        and cardinality(in_contexts) = streams and cardinality(in_lanes) = streams
        and cardinality(in_tip_versions) = tips and cardinality(in_tip_ids) = tips
        and cardinality(in_event_streams) = events and cardinality(in_event_types) = events
        and cardinality(in_event_data) = events and cardinality(in_event_metadata) = events
        and cardinality(in_tag_events) = cardinality(in_tags) and cardinality(in_tags) <= 65536
        and 1 <= all (in_tag_events) and events >= all (in_tag_events)
        and 0 <= all (in_tip_counts) and 1024 >= all (in_tip_counts)
        and 0 <= all (in_event_counts) and 1000 >= all (in_event_counts), false)
    then
        raise exception using errcode = 'TB003', message =
            'arrays that do not fit each other or do not count from 1; or more than 4,096 appends, 65,536 rows, an append of over 1,024 streams or 1,000 events';
    end if;

    if in_conditions is not null and exists (
        select from jsonb_to_recordset(in_conditions) as c (append integer, after bigint, types text[], tags text[])
        where not coalesce(
            c.append between 1 and appends and c.after >= 0 and cardinality(c.types) + cardinality(c.tags) >= 0, false)
    ) then
        raise exception using errcode = 'TB003', message = 'a condition of no append, or without a position, types or tags';
    end if;

    select e.position, e.recorded_at into head, at from log.events e order by e.position desc limit 1;
    head := coalesce(head, 0);
    at := greatest(clock_timestamp(), at + interval '1 microsecond');

    -- Fetch: the last event of every stream. Its context and lane are those of the stream, for ever.
    select
        array_agg(coalesce(t.version, 0) order by u.number),
        array_agg(coalesce(t.event_id, '00000000-0000-0000-0000-000000000000') order by u.number),
        bool_or(
            u.stream is null or u.lane is distinct from
                coalesce(t.lane, log.lane_of(u.stream, (select n.lanes from log.settings n)))
            or u.context <> t.context)
    into current_versions, current_ids, bad
    from unnest(in_streams, in_contexts, in_lanes) with ordinality as u (stream, context, lane, number)
    left join lateral (
        select e.version, e.event_id, e.context, e.lane from log.events e
        where e.stream = u.stream collate "C" order by e.version desc limit 1
    ) t on true;
    for n in 2..streams loop
        bad := bad or names[n] <= names[n - 1] collate "C";
    end loop;
    if bad then
        raise exception using errcode = 'TB003',
            message = 'a stream in the wrong lane, of another context, or not behind the one before it in the dictionary';
    end if;

    -- Decide; and once more, with what the requests are bound to, where one turns out to be a repeat. A repeat has
    -- precedence over a conflict, and a refusal inserts no request that could tell.
    for round in 1..2 loop
        if round = 2 or 0 = any (in_event_counts) then
            select array_agg(r.first_position order by u.number), array_agg(r.count order by u.number),
                array_agg(r.fingerprint = u.fingerprint order by u.number)
            into firsts, counts, same
            from unnest(in_digests, in_fingerprints) with ordinality as u (digest, fingerprint, number)
            left join log.requests r on r.digest = u.digest;
        end if;

        versions := current_versions;
        ids := current_ids;
        verdicts := array_fill(1::smallint, array[appends]);
        begins := array_fill(0::bigint, array[appends]);
        positions := array_fill(0::bigint, array[events]);
        new_versions := positions;
        position := head;
        tip_at := 0;
        event_at := 0;
        for i in 1..appends loop
            verdict := 1;
            if firsts[i] is not null then
                verdict := case when same[i] then 3 else 4 end;
            else
                for t in tip_at + 1..tip_at + in_tip_counts[i] loop
                    s := in_tip_streams[t];
                    continue when ids[s] = in_tip_ids[t] and versions[s] = in_tip_versions[t];
                    verdict := 2;
                    exit;
                end loop;
            end if;
            if verdict = 1 and in_conditions is not null and exists (
                select from jsonb_to_recordset(in_conditions) as c (append integer, after bigint, types text[], tags text[])
                where c.append = i and (
                    c.after > position
                    or cardinality(c.tags) = 0 and append.head - c.after > 10000
                    or exists (select from log.positions_of(c.types, c.tags, c.after, append.head, 1))
                    or exists (
                        select from unnest(positions, in_event_types) with ordinality as e (position, type, number)
                        where e.position > c.after and (cardinality(c.types) = 0 or e.type = any (c.types))
                            and not exists (
                                select from unnest(c.tags) as w (tag)
                                where not exists (
                                    select from unnest(in_tag_events, in_tags) as t (event, tag)
                                    where t.event = e.number and t.tag = w.tag
                                )
                            )
                    )
                )
            ) then
                verdict := 2;
            end if;
            if verdict = 1 then
                begins[i] := position + 1;
                for e in event_at + 1..event_at + in_event_counts[i] loop
                    s := in_event_streams[e];
                    position := position + 1;
                    positions[e] := position;
                    versions[s] := versions[s] + 1;
                    new_versions[e] := versions[s];
                    ids[s] := in_event_ids[e];
                end loop;
            else
                verdicts[i] := verdict;
            end if;
            tip_at := tip_at + in_tip_counts[i];
            event_at := event_at + in_event_counts[i];
        end loop;
        continue when firsts is null and 2 = any (verdicts);

        begin
            insert into log.requests
            select r.digest, r.fingerprint, r.first, r.count
            from unnest(in_digests, in_fingerprints, begins, in_event_counts)
                as r (digest, fingerprint, first, count)
            where r.first > 0 and r.count > 0 and r.digest is not null;
            exit;
        exception when unique_violation then
            if round = 2 then
                raise exception using errcode = 'TB003', message = 'one digest twice in a batch';
            end if;
        end;
    end loop;

    insert into log.events
        (position, stream, version, event_id, type, context, lane, data, metadata, recorded_at)
    select e.position, names[e.stream], e.version, e.event_id, e.type,
        contexts[e.stream], in_lanes[e.stream], e.data, e.metadata, append.at
    from unnest(
        positions, in_event_streams, new_versions, in_event_ids, in_event_types, in_event_data, in_event_metadata)
        as e (position, stream, version, event_id, type, data, metadata)
    where e.position > 0;
    get diagnostics inserted = row_count;
    if inserted <> position - head or tip_at <> tips or event_at <> events then
        raise exception using errcode = 'TB003', message = 'tips or events that belong to no append or no stream';
    end if;

    if cardinality(in_tags) > 0 then
        insert into log.tags
        select t.tag, e.position, e.type
        from unnest(in_tag_events, in_tags) as t (event, tag)
            join unnest(positions, in_event_types) with ordinality as e (position, type, number) on e.number = t.event
        where e.position > 0;
    end if;
end
$$;

revoke all on function log.append, log.positions_of from public;
grant execute on function log.append to tallybook_writer, tallybook_policies;
grant execute on function log.positions_of to
    tallybook_writer, tallybook_reader, tallybook_relay, tallybook_projector, tallybook_policies;
